"""The upstream runner on a phone: what it answers is what the emulator does, and each way that it can fail is told.

A stand-in for it, around hexport's own runtime, really runs programs; shell scripts do what a runner should not.
"""

import contextlib
import functools
import itertools
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loopback import LoopbackDevice
from loopback_phones import SCRIPTS, phone_of, running, upstream_runner, wait_for
from real_program import CONTEXT, real_programs  # noqa: F401 - a fixture
from test_phone_libraries import make_sdk

from hexport.config.devices import Device
from hexport.devices.answers import answer_prompts
from hexport.devices.emulator import Run, load_generator
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones.job import RUNS
from hexport.devices.runners.qnn_llama_runner import decoder_version, generator, reader
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.decode import Generation
from hexport.runtime.lookahead import Size
from hexport.runtime.program import Program, checked_facts
from hexport.runtime.reading import read
from hexport.tokenizers.tokenizer import load_tokenizer

RUNNER = "qnn_llama_runner"
KV = Run("kv", None, "", 0.0, CONTEXT)
HYBRID = replace(KV, mode="hybrid")
LOOKAHEAD = replace(KV, mode="lookahead", lookahead=Size(3, 2, 2))
STOPS = frozenset({257})
MS = {"model_load_start_ms": 1000, "model_load_end_ms": 1500, "inference_start_ms": 1500, "first_token_ms": 1700}
REPORT = {**MS, "inference_end_ms": 2700, "prompt_tokens": 2, "generated_tokens": 4}


@pytest.fixture(scope="session")
def python_device(tmp_path_factory):
    """A phone whose programs find this Python."""
    visible = {Path(sys.prefix), Path(sys.base_prefix), SCRIPTS} - {Path("/usr")}
    options = [word for path in sorted(visible) for word in ("--expose", path)]
    with LoopbackDevice(
        tmp_path_factory.mktemp("phone"), args=["--prop", "ro.product.cpu.abi=arm64-v8a", *options]
    ) as it:
        yield it


def made_entry(folder: Path, runner: str, **keys) -> Device:
    """An entry of devices.yaml whose build has this text as its runner."""
    build = folder / "build-android"
    path = build / "examples" / "qualcomm" / "oss_scripts" / "llama" / RUNNER
    path.parent.mkdir(parents=True)
    path.write_text(runner)
    (build / "lib").mkdir()
    (build / "lib" / "libqnn_executorch_backend.so").write_bytes(b"\x7fELF aarch64")
    folders = {"build_path": str(build), "qnn_sdk": str(make_sdk(folder / "sdk"))}
    return Device(name="s24", kind="adb", soc="SM8650", serial="R5C", **folders, **keys)


@pytest.fixture
def made(tmp_path):
    return functools.partial(made_entry, tmp_path)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("upstream"), upstream_runner())


@pytest.fixture(scope="module")
def answering(tmp_path_factory, adb_server, real_programs):  # noqa: F811
    """`answering(behaviour, …)`: the answer of a runner that does what this shell script does. Its phone is its own."""
    entry = made_entry(tmp_path_factory.mktemp("shell"), "#!/bin/sh\n. ./behaviour\n", timeout=20)
    with LoopbackDevice(tmp_path_factory.mktemp("phone")) as device:
        phone = phone_of(device, adb_server)
        phone.check_online(15)
        with generator(phone, entry, real_programs.hybrid, real_programs.tokenizer, KV, Progress()) as runner:

            def answer(behaviour: str, end: int = 12, stop_ids: frozenset[int] = STOPS) -> Generation:
                runner.process.job.write("behaviour", behaviour.encode())
                return runner.generate([256, 79], end, stop_ids, lambda: None, lambda token: None)

            yield answer


def shell_runner(outputs: str = "prompt.raw5 6 7 8 9 ", report: dict | None = REPORT, then: str = "") -> str:
    lines = [f"printf %s {shlex.quote(outputs)} >outputs.txt", "echo 'I executorch] loaded the model' >&2"]
    if report is not None:
        lines.append(f"echo 'PyTorchObserver {json.dumps(report)}'")
    return "\n".join(["#!/bin/sh", *lines, then, ""])


def answer(phone, device, programs, run=KV, tokens=(256, 79), end=12, stop_ids=STOPS, progress=None):
    program, progress = programs.of(run.mode), progress or Progress()
    with generator(phone, device, program, programs.tokenizer, run, progress) as runner:
        return runner.generate(list(tokens), end, stop_ids, lambda: None, lambda token: None), runner.load_s


def left(phone) -> str:
    return phone.shell(f"ls -A {RUNS}", 10).text()


@pytest.mark.parametrize("run", [HYBRID, LOOKAHEAD], ids=lambda run: run.mode)
def test_answers_are_those_of_the_emulator(python_device, adb_server, upstream, real_programs, run):  # noqa: F811
    phone, mode = phone_of(python_device, adb_server), run.mode
    phone.check_online(15)
    program, tokenizer = real_programs.of(mode), load_tokenizer(real_programs.tokenizer.parent)
    conversations = [["On"], ["Once", "a"]] if mode == "hybrid" else [["Once"]]
    run = replace(run, seq_len=16 if mode == "lookahead" else CONTEXT)
    arguments = tokenizer, conversations, run, Progress()
    with generator(phone, upstream, program, real_programs.tokenizer, run, Progress()) as runner:
        (answers,) = answer_prompts(program, runner, *arguments)
    found = [answer.turn for answer in answers]
    (answers,) = answer_prompts(program, load_generator(program, run, Progress()), *arguments)
    expected = [answer.turn for answer in answers]
    assert [turn.generation.token_ids for turn in found] == [turn.generation.token_ids for turn in expected]
    assert [turn.text for turn in found] == [turn.text for turn in expected]
    assert [turn.generation.decode_steps for turn in found] == [turn.generation.decode_steps for turn in expected]
    assert runner.load_s > 0 and all(0 < turn.generation.first_token_s <= turn.generation.total_s for turn in found)
    assert left(phone) == ""


def test_texts_are_scored_as_on_the_emulator(python_device, adb_server, upstream, real_programs):  # noqa: F811
    phone, program = phone_of(python_device, adb_server), real_programs.hybrid
    phone.check_online(15)
    longest = [256, *b"Once upon a time there"]
    inputs = sorted([longest, longest[:4], longest[:9], [256, 65, 66], [256, 65, 66]])
    assert len(longest) == CONTEXT - 1
    expected = np.concatenate(list(read(Program(program).graph(), inputs, Progress())))
    python_device.control({"op": "clear"})
    with reader(phone, upstream, program, real_programs.tokenizer, "prefill", Progress()) as scorer:
        assert (scorer.name, scorer.graph.ar_len, scorer.graph.context_len) == ("kv", 1, CONTEXT - 1)
        found = np.concatenate(list(scorer.read(inputs, Progress())))
        assert "all_logits.raw" not in phone.shell(f"ls -A {RUNS}/*", 10).text()
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    runs = [event for event in python_device.events("shell") if f"./{RUNNER}" in event["cmd"]]
    assert len([event for event in runs if "dump_logits" in event["cmd"]]) == 2  # of five texts: three begin others
    assert left(phone) == ""


def test_times_and_the_log_are_the_runners(phone, made, real_programs, tmp_path, capfd):  # noqa: F811
    progress = Progress(tmp_path / "run.log")
    generation, load_s = answer(phone, made(shell_runner()), real_programs, progress=progress)
    assert generation.token_ids == [5, 6, 7, 8, 9] and (generation.tokens_read, generation.decode_steps) == (2, 4)
    assert (load_s, generation.first_token_s, generation.total_s) == pytest.approx((0.5, 0.2, 1.2))
    assert "loaded the model" in (tmp_path / "run.log").read_text()
    assert "loaded the model" not in capfd.readouterr().err


@pytest.mark.parametrize(("stop_ids", "end", "kept"), [({7}, 12, 3), ({5}, 12, 1), ({9}, 12, 5), (set(), 5, 3)])
def test_an_answer_that_goes_on_is_cut_off_and_its_rate_kept(answering, stop_ids, end, kept):
    generation = answering(shell_runner(), end, frozenset(stop_ids))
    assert generation.token_ids == [5, 6, 7, 8, 9][:kept]
    assert generation.total_s - generation.first_token_s == pytest.approx((kept - 1) / 4)


def test_lookahead_says_what_it_gained(phone, made, real_programs):  # noqa: F811
    said = "echo 'I executorch:lhd] Lookahead Decoding: n_generated = 4 / n_accept = 3' >&2"
    generation, _ = answer(phone, made(shell_runner(then=said)), real_programs, LOOKAHEAD)
    assert (generation.decode_steps, generation.accepted_tokens) == (1, 3)


FAULTS = {
    "a crash": ("kill -SEGV $$", PhoneFault, "crashed with SIGSEGV: I executorch] loaded the model"),
    "an abort": ("echo 'Check failed: it is' >&2; kill -ABRT $$", PhoneFault, "SIGABRT: Check failed: it is"),
    "killed": ("kill -KILL $$", PhoneFault, "killed by SIGKILL"),
    "an exit code": ("echo 'ERROR: unknown flag' >&2; exit 3", PhoneFault, "exit code 3.*ERROR: unknown flag"),
    "the exit code of return -1": ("exit 255", PhoneFault, "exit code 255"),
    "it never ends": ("sleep 60.0625", PhoneFault, "did not end within 1 s"),
}


@pytest.mark.parametrize(("then", "kind", "line"), FAULTS.values(), ids=FAULTS)
def test_a_runner_that_does_not_end_well(phone, made, real_programs, tmp_path, then, kind, line):  # noqa: F811
    device, progress = made(shell_runner(then=then), timeout=1 if "sleep" in then else 20), Progress(tmp_path / "log")
    with pytest.raises(HexportError, match=line) as raised:
        answer(phone, device, real_programs, progress=progress)
    assert type(raised.value) is kind and "\n" not in str(raised.value)
    wait_for(lambda: not running("60.0625"))
    assert left(phone) == ""


GARBAGE = {
    "no report": (shell_runner(report=None), r"without its report \(PyTorchObserver\), and last said: .*loaded"),
    "half a report": (shell_runner(report=MS), "without its report"),
    "no JSON": (shell_runner(report=None, then="echo 'PyTorchObserver {\"a\": }'"), "without its report"),
    "no outputs": (shell_runner(then="rm outputs.txt"), "left no outputs.txt"),
    "empty outputs": (shell_runner(""), "garbage"),
    "only the echo": (shell_runner("prompt.raw"), "garbage"),
    "no echo": (shell_runner("5 6 7 8 9 "), "garbage"),
    "fewer ids than it reports": (shell_runner("prompt.raw5 6 7 "), "garbage"),
    "ids cut short": (shell_runner("prompt.raw5 6 7 8 9 1"), "garbage"),
    "an answer that no text is": (shell_runner("prompt.raw\x01\x02ERROR: no memory"), "garbage"),
    "figures that are none": (shell_runner(report={**REPORT, "first_token_ms": float("nan")}), "without its report"),
    "noise": (shell_runner(then="head -c 99 /dev/urandom >>outputs.txt"), "garbage"),
    "an id of many digits": (shell_runner(f"prompt.raw5 6 {'9' * 5000} "), "garbage"),
    "a FIFO": (shell_runner(then="rm outputs.txt; mkfifo outputs.txt"), "left no outputs.txt"),
    "deep JSON": (
        shell_runner(report=None, then="""echo "PyTorchObserver {$(printf '[%.0s' $(seq 9000))}" """),
        "without its report",
    ),
    "more tokens than there can be": (shell_runner(report={**REPORT, "generated_tokens": 10**400}), "without its rep"),
}


@pytest.mark.parametrize(("runner", "line"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_answer(answering, runner, line):
    with pytest.raises(PhoneFault, match=f"phone s24 .*{RUNNER} .*{line}") as raised:
        answering(runner)
    assert type(raised.value) is PhoneFault and "\n" not in str(raised.value)


def test_outputs_of_any_size_are_not_brought_to_the_host(answering):
    with pytest.raises(PhoneFault, match=r"'outputs\.txt' has 20000020 bytes, expected are 16777216 at most"):
        answering(shell_runner(then="head -c 20000000 /dev/zero >>outputs.txt"))


def test_a_runner_that_writes_words_is_understood(answering, real_programs):  # noqa: F811
    encode = load_tokenizer(real_programs.tokenizer.parent).encode
    assert answering(shell_runner("prompt.rawOnce</s>")).token_ids == encode("Once</s>")
    cut_in_two = shell_runner("prompt.rawOnc", then="printf '\\303' >>outputs.txt")
    assert answering(cut_in_two).token_ids == encode("Onc")


def test_an_earlier_answer_is_not_taken_for_this_one(answering):
    assert answering(shell_runner()).token_ids == [5, 6, 7, 8, 9]
    with pytest.raises(PhoneFault, match="left no outputs"):
        answering(f"echo 'PyTorchObserver {json.dumps(REPORT)}'")


def test_a_lost_link_passes_and_nothing_runs_on(device, phone, made, real_programs):  # noqa: F811
    device.fault(op="shell", match="--model_path", after=0.5, action="drop")
    with pytest.raises(PassingFault):
        answer(phone, made(shell_runner(then="sleep 60.03125")), real_programs)
    wait_for(lambda: not running("60.03125"))


def test_the_second_run_pushes_next_to_nothing(device, phone, made, real_programs):  # noqa: F811
    entry, sizes = made(shell_runner()), []
    phone.shell("rm -rf /data/local/tmp/hexport", 10)
    for _ in range(2):
        answer(phone, entry, real_programs)
        sizes.append(sum(event["size"] for event in device.events("push")))
    first, both = sizes
    assert real_programs.hybrid.stat().st_size < first and both - first < first / 100


def test_a_failure_takes_the_phones_log_into_ours(new_device, adb_server, made, real_programs, tmp_path):  # noqa: F811
    device = new_device()
    logcat = Path(device.host_path("/system/bin/logcat"))
    logcat.write_text("#!/bin/sh\necho 'E adsprpc: the DSP says why'\n")
    logcat.chmod(0o755)
    phone, progress = phone_of(device, adb_server), Progress(tmp_path / "run.log")
    phone.check_online(15)
    with pytest.raises(PhoneFault, match="without its report"):
        answer(phone, made(shell_runner(report=None)), real_programs, progress=progress)
    assert "the DSP says why" in (tmp_path / "run.log").read_text()


def test_a_sliding_window_needs_the_runners_gemma3(real_programs):  # noqa: F811
    facts = checked_facts(real_programs.hybrid)
    assert decoder_version(facts) == "gemma"
    method = facts.methods["kv_forward"]
    tokens, mask, *others = method.inputs
    windowed = replace(method, inputs=[tokens, mask, replace(mask, name="window_atten_mask"), *others])
    assert decoder_version(replace(facts, methods={"kv_forward": windowed})) == "gemma3"


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("head -c 1000 /dev/zero >all_logits.raw", "1000 bytes of logits, expected 1032"),  # 2 rows of 258 16-bit codes
        ("true", r"left no all_logits\.raw"),
    ],
)
def test_logits_of_another_size_and_none_are_the_phones_fault(phone, made, real_programs, then, said):  # noqa: F811
    device = made(shell_runner(then=then))
    program, tokenizer = real_programs.hybrid, real_programs.tokenizer
    with (
        pytest.raises(PhoneFault, match=said),
        reader(phone, device, program, tokenizer, "kv", Progress()) as scorer,
    ):
        list(scorer.read([[256, 79]], Progress()))


def test_no_space_for_the_logits(new_device, adb_server, made, real_programs):  # noqa: F811
    phone = phone_of(new_device("--disk-size", "40m"), adb_server)
    phone.check_online(15)
    program, tokenizer = real_programs.hybrid, real_programs.tokenizer
    with reader(phone, made(shell_runner()), program, tokenizer, "kv", Progress()) as scorer:
        phone.shell("head -c 30000000 /dev/zero >/data/local/tmp/full", 20)
        with pytest.raises(PhoneFault, match=r"no space: 16 MB needed for the logits of 2 tokens, \d+ MB free"):
            next(scorer.read([[256, 79]], Progress()))


REFUSED = {
    "temperature": (replace(KV, temperature=0.7), "temperature 0.7: .*set temperature: 0"),
    "sizes": (replace(KV, mode="lookahead", lookahead=Size(3, 2, 1)), r"= 6 tokens, as long as .* 8; .*power of 2"),
}


@pytest.mark.parametrize(("run", "line"), REFUSED.values(), ids=REFUSED)
def test_what_the_runner_cannot_do_right_is_refused_before_a_push(device, phone, made, real_programs, run, line):  # noqa: F811
    with pytest.raises(HexportError, match=line) as raised:
        answer(phone, made(shell_runner()), real_programs, run)
    assert not isinstance(raised.value, PhoneFault)
    assert not device.events("push")


def test_a_lookahead_program_is_not_scored(phone, made, real_programs):  # noqa: F811
    arguments = phone, made(shell_runner()), real_programs.lookahead, real_programs.tokenizer, "kv", Progress()
    with pytest.raises(HexportError, match="evaluate this model in mode kv or hybrid"), reader(*arguments):
        pass


def test_a_prompt_beyond_lookaheads_cache_is_refused(phone, made, real_programs):  # noqa: F811
    run, device = LOOKAHEAD, made(shell_runner())
    with pytest.raises(HexportError, match=f"has 17 tokens, .* at most {CONTEXT - 8}"):
        answer(phone, device, real_programs, run, tokens=itertools.repeat(65, 17), end=20)


def test_lookahead_needs_the_runners_log(phone, made, real_programs):  # noqa: F811
    with pytest.raises(HexportError, match="EXECUTORCH_ENABLE_LOGGING=ON"):
        answer(phone, made(shell_runner()), real_programs, LOOKAHEAD)


def test_missing_files_are_told_before_a_push(device, phone, made, real_programs):  # noqa: F811
    entry = made(shell_runner())
    for missing in (replace(entry, build_path=None), replace(entry, qnn_sdk="no-sdk"), replace(entry, soc="SM8550")):
        with pytest.raises(HexportError), contextlib.suppress(PhoneFault):
            answer(phone, missing, real_programs)
    assert not device.events("push")
