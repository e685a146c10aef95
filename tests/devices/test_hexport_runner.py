"""Our own runtime on a loopback phone that has Python: what the emulator of this process gives, in every mode."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loopback import LoopbackDevice
from loopback_phones import phone_of, wait_for
from real_program import BLOCK, CONTEXT, RealPrograms, real_programs, run_of  # noqa: F401

from hexport.config.devices import Device
from hexport.devices import phone_evaluations
from hexport.devices.answers import answer_prompts
from hexport.devices.emulator import Run, load_generator
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phone_evaluations import evaluate_on_phones
from hexport.devices.phones.leases import holder, lease
from hexport.devices.runners import hexport_runner, phone_process
from hexport.devices.runners.hexport_runner import generator, reader
from hexport.devices.runners.phone_code import write_code
from hexport.devices.runners.remote import mode_sizes
from hexport.devices.talking import run_of as talk_run_of
from hexport.devices.talking import talking_generator
from hexport.errors import HexportError
from hexport.evaluation.comparison import Comparison
from hexport.progress import Progress
from hexport.runtime.conversation import AnyGenerator
from hexport.runtime.program import Program, checked_facts
from hexport.runtime.reading import read
from hexport.runtime.talk import Talk
from hexport.tokenizers.tokenizer import load_tokenizer

# To be scored: some begin alike, and one fills the context.
TEXTS = sorted([list(b"On"), list(b"Once upon a"), list(b"Once upon"), list(b"Once upon a time, there"), list(b"The")])


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Iterator[LoopbackDevice]:
    """A phone on which this process' Python is to be found."""
    exposed = [word for prefix in {sys.prefix, sys.base_prefix} - {"/usr"} for word in ("--expose", prefix)]
    with LoopbackDevice(tmp_path_factory.mktemp("board"), args=["--soc", "SM8650", *exposed]) as board:
        yield board


@pytest.fixture(scope="module")
def board_phone(board, adb_server) -> Phone:
    return phone_of(board, adb_server, "board")


@pytest.fixture(scope="module")
def python(board) -> str:
    """This process' Python, with an executorch that is imported soon."""
    tmp = Path(board.host_path("/data/local/tmp"))
    (tmp / "lean").mkdir()
    shutil.copy(Path(__file__).with_name("lean_executorch.py"), tmp / "lean" / "sitecustomize.py")
    (tmp / "python").write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:$(dirname "$0")/lean exec {sys.executable} "$@"\n')
    (tmp / "python").chmod(0o755)
    return "/data/local/tmp/python"


@pytest.fixture
def settings(board, board_phone, python) -> Device:
    """Its entry in devices.yaml. Its journal begins with the test, and it is online."""
    board.control({"op": "clear"})
    open(board.journal, "w").close()
    board_phone.check_online(15)
    server = {"host": board_phone.host, "port": board_phone.port}
    kind = {"name": "board", "kind": "adb", "runner": "hexport", "soc": "SM8650"}
    return Device(**kind, serial=board.address, adb_server=server, python=python, timeout=90)


CONVERSATIONS = [["no no", "no "], ["On"], ["no no", "no "]]


def answers_of(generator: AnyGenerator, programs: RealPrograms, run: Run, *conversations: list[str]) -> list[list[int]]:
    tokenizer = replace(load_tokenizer(programs.tokenizer.parent), stop_ids=frozenset())
    (found,) = answer_prompts(programs.of(run.mode), generator, tokenizer, list(conversations), run, Progress())
    return [answer.turn.generation.token_ids for answer in found]


def processes(board: LoopbackDevice) -> int:
    """How many of our processes have run on the phone."""
    return sum("phone_side" in str(event) for event in board.events("shell"))


def test_a_talk_on_a_phone_is_the_emulators(real_programs, board, board_phone, settings):  # noqa: F811
    program = real_programs.of("kv")
    run, found = talk_run_of(program, "", 0.0, None), {}
    for name, device in (("phone", settings), ("emulator", None)):
        with talking_generator(program, real_programs.tokenizer, device, run, Progress()) as talking:
            talk = Talk(talking, load_tokenizer(real_programs.tokenizer.parent), "", 9, can_stop=device is None)
            pieces: list[str] = []
            found[name] = talk.answer("no", pieces.append).token_ids, "".join(pieces)
    assert found["phone"] == found["emulator"]
    assert processes(board) == 1


@pytest.mark.parametrize(("mode", "temperature"), [("kv", 0.0), ("hybrid", 0.8), ("lookahead", 0.0)])
def test_conversations_are_the_emulators(real_programs, board, board_phone, settings, mode, temperature):  # noqa: F811
    """In one load, and each as if it were alone."""
    program, run = real_programs.of(mode), replace(run_of(mode), temperature=temperature)
    with generator(board_phone, settings, program, real_programs.tokenizer, run, Progress()) as remote:
        found = answers_of(remote, real_programs, run, *CONVERSATIONS)
        remote.cache.keep(0)
        again = remote.generate(list(b"no no"), CONTEXT, frozenset(), lambda: None, lambda token: None)
        assert 0 < again.first_token_s < again.total_s < 30
        assert 0 < remote.load_s < 30
    assert processes(board) == 1
    other = answers_of(load_generator(program, run, Progress()), real_programs, run, CONVERSATIONS[1])
    local = load_generator(program, run, Progress())  # after the other one is gone: a program is loaded once at a time
    for name in ("prefill_graph", "decode_graph"):
        sizes, graph = getattr(remote, name), getattr(local, name)
        assert (sizes.ar_len, sizes.cache_len, sizes.vocab_size) == (graph.ar_len, graph.cache_len, graph.vocab_size)
    first = answers_of(local, real_programs, run, CONVERSATIONS[0])
    assert found == [*first, *other, *first]
    local.cache.keep(0)
    expected = local.generate(list(b"no no"), CONTEXT, frozenset())
    times = {"first_token_s": again.first_token_s, "total_s": again.total_s}
    assert again == replace(expected, **times)


def test_texts_score_as_on_the_emulator(real_programs, board, board_phone, settings, monkeypatch):  # noqa: F811
    """Bit for bit, by one process for all of them; and by a new one where the host was busy for long in between."""
    said, progress = [], Progress()
    monkeypatch.setattr(progress, "say", lambda line, **_: said.append(line))
    arguments = board_phone, settings, real_programs.hybrid, real_programs.tokenizer
    with reader(*arguments, "prefill", progress) as remote:
        found = [np.concatenate(list(remote.read(TEXTS, progress))) for _ in range(2)]
        monkeypatch.setattr(phone_process, "FRESH_S", 0)
        monkeypatch.setattr(hexport_runner, "FRAME_BYTES", 2000)  # three rows
        found.append(np.concatenate(list(remote.read(TEXTS, progress))))
    assert processes(board) == 2
    sent = [event["path"] for event in board.events("push") if "/cache/" in event["path"]]
    assert len(sent) == len(set(sent))
    expected = np.concatenate(list(read(Program(real_programs.hybrid).graph("prefill_forward"), TEXTS, Progress())))
    assert expected.shape == (sum(map(len, TEXTS)), 258)
    for rows in found:
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, expected)
    assert any(re.fullmatch(r"device: block 2 of \d+, \d+ s left", line) for line in said)


@pytest.fixture(scope="module")
def no_sdk(tmp_path_factory) -> str:
    """A folder with what is no QNN library, and small."""
    root = tmp_path_factory.mktemp("sdk")
    libraries = root / "lib" / "x86_64-linux-clang"
    libraries.mkdir(parents=True)
    for name in ("libQnnHtp.so", "libQnnSystem.so"):
        (libraries / name).write_text("no library")
    return str(root)


@pytest.fixture
def stand_in(board, settings, no_sdk):
    """`stand_in(script)`: settings with a shell script in the place of Python."""

    def made(script: str, **changes) -> Device:
        path = Path(board.host_path("/data/local/tmp/stand-in"))
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return replace(settings, python="/data/local/tmp/stand-in", qnn_sdk=no_sdk, **changes)

    return made


def load(phone: Phone, settings: Device, programs: RealPrograms) -> None:
    """What must not come to its end."""
    with generator(phone, settings, programs.hybrid, programs.tokenizer, run_of("kv"), Progress()):
        pytest.fail("it loaded")


def answer(header: dict) -> str:
    """The line that comes before an answer's bytes."""
    line = json.dumps(header)
    return f"{zlib.crc32(line.encode()):08x} {line}"


LOADS = json.dumps({"load_s": 0.1})
LOADED = answer({"event": "loaded", "bytes": len(LOADS), "sha256": hashlib.sha256(LOADS.encode()).hexdigest()})
WRONG = answer({"event": "loaded", "bytes": len(LOADS), "sha256": "0" * 64})


@pytest.mark.parametrize(
    ("script", "fault", "line"),
    [
        ("echo hello; sleep 30", PassingFault, "b'hello' is no answer of hexport's"),
        (
            f"echo '{LOADED.replace('load', 'lo4d')}'; sleep 30",
            PassingFault,
            "no answer of hexport's, or one that was damaged",
        ),
        (f"echo '{WRONG}'; printf '{LOADS}'; sleep 30", PassingFault, f"{len(LOADS)} bytes arrived damaged"),
        (f"echo '{LOADED}'; echo '{{'; echo why >&2", PhoneFault, "ended with exit code 0: why"),
        ("echo one >&2; echo two >&2; exit 3", PhoneFault, "ended with exit code 3: two"),
        ("kill -9 $$", PhoneFault, "killed by SIGKILL"),
        ("kill -11 $$", PhoneFault, "crashed with SIGSEGV"),
        ("sleep 30", PhoneFault, "did not end within 2 s"),
    ],
)
def test_what_is_no_answer_is_told(real_programs, board_phone, stand_in, script, fault, line):  # noqa: F811
    with pytest.raises(HexportError) as raised:
        load(board_phone, stand_in(script, timeout=2 if script == "sleep 30" else 20), real_programs)
    assert type(raised.value) is fault
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_link_that_breaks_amid_an_answer_leaves_nothing_running(real_programs, board, board_phone, stand_in):  # noqa: F811
    runs, arguments = Path(board.host_path("/data/local/tmp/hexport/runs")), (real_programs.hybrid, None)
    silent = stand_in(f"echo '{LOADED}'; printf '{LOADS}'; sleep 60")  # loads, and never says more
    with (
        pytest.raises(PassingFault, match="the link broke before its end"),
        generator(board_phone, silent, *arguments, run_of("hybrid"), Progress()) as remote,
        ThreadPoolExecutor(1) as other,
    ):
        (folder,) = runs.iterdir()
        assert working_in(folder.name)

        def break_link() -> None:
            wait_for((folder / "request-1.json").exists)
            time.sleep(0.3)  # until the host waits for the answer
            board.control({"op": "vanish", "secs": 1})

        other.submit(break_link)
        remote.generate(list(b"Once"), CONTEXT, frozenset(), lambda: None, lambda token: None)
    wait_for(lambda: not working_in(folder.name))
    wait_for(lambda: not list(runs.iterdir()))


def working_in(folder: str) -> list[Path]:
    """Processes that work in a folder of a phone: they are in /proc of this host, too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder in os.readlink(process / "cwd"):
                found.append(process)
    return found


def test_a_python_without_our_libraries_is_told(real_programs, board_phone, stand_in):  # noqa: F811
    bare = stand_in(f'exec {sys.executable} -S "$@"')
    with pytest.raises(PhoneFault, match=r"no module executorch; install executorch \d.* which brings torch"):
        load(board_phone, bare, real_programs)
    nowhere = replace(bare, python="python9")
    with pytest.raises(PhoneFault, match="python9 is not there; name the Python of this device as python in devices"):
        load(board_phone, nowhere, real_programs)


def test_a_program_that_qnn_does_not_load_is_told(real_programs, board_phone, settings, no_sdk):  # noqa: F811
    with pytest.raises(PhoneFault) as raised:
        load(board_phone, replace(settings, qnn_sdk=no_sdk), real_programs)
    assert "kv_forward does not load" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_no_phone_can_run_is_refused_before_anything_is_pushed(real_programs, board, board_phone, settings):  # noqa: F811
    with pytest.raises(HexportError, match="mode kv needs kv_forward with AR length 1, here it has 8"):
        load(board_phone, settings, replace(real_programs, hybrid=real_programs.lookahead))
    assert not board.events("push")


def test_the_code_for_phones_is_small_and_always_the_same_bytes(tmp_path):
    for name in ("once", "again"):
        write_code(tmp_path / name)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "again").read_bytes()
    with zipfile.ZipFile(tmp_path / "once") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        modules = [Path(name).parent.name for name in archive.namelist()]
    assert set(modules) == {"hexport", "devices", "runners", "runtime", "targets"}


def test_the_sizes_of_a_program_are_known_without_loading_it(real_programs):  # noqa: F811
    facts = checked_facts(real_programs.hybrid)
    prefill, decode = mode_sizes(facts, run_of("hybrid"))
    assert (prefill.ar_len, prefill.context_len, prefill.vocab_size, prefill.cache_len) == (BLOCK, CONTEXT, 258, 16)
    assert decode.ar_len == 1
    assert mode_sizes(facts, run_of("kv")) == (decode, decode)


def test_no_phone_is_leased_while_this_host_computes(
    real_programs,  # noqa: F811
    board,
    board_phone,
    settings,
    tmp_path,
    monkeypatch,
):
    """And layers are passed once: in the second evaluation, of logits in several parts, none is."""
    (tmp_path / "tale.txt").write_text("Once upon a time, there was a small boat.")
    program = real_programs.hybrid
    job = EvaluationJob(
        program,
        real_programs.tokenizer,
        {"model": "tiny", "target": "SM8650", "graph": "prefill", "max_seq_len": CONTEXT}
        | {"tasks": ["tale"], "limit": None, "num_fewshot": None},
        {"tale": tmp_path / "tale.txt"},
        checkpoint=program.parent / "checkpoint" / "model.safetensors",
        quant_attrs=None,
        weights=None,
        states=tmp_path / "states",
    )
    holders, add = [], Comparison.add
    monkeypatch.setattr(Comparison, "add", lambda *rows: (holders.append(holder(board_phone)), add(*rows)))
    log = tmp_path / "log"
    with ThreadPoolExecutor() as other, lease(board_phone) as others:
        evaluation = other.submit(evaluate_on_phones, [settings], job, Progress(log))
        wait_for(lambda: "waiting for a phone" in log.read_text(), 60)
        assert "evaluate: layer 1 of 1" in log.read_text()
        assert "device: block" not in log.read_text()
        others.release()
        found = evaluation.result(60)
    assert found.facts["sqnr_db"] > 20
    assert found.device == settings.name
    monkeypatch.setattr(phone_evaluations, "MOST_BYTES", 4 * 258 * CONTEXT)  # of one window
    again = evaluate_on_phones([settings], job, Progress(tmp_path / "again.log"))
    assert again.facts == found.facts
    assert "evaluate: layer" not in (tmp_path / "again.log").read_text()
    assert holders and set(holders) == {None}
    assert processes(board) == 1 + 2


def test_a_runner_whose_phones_all_fail_leaves_the_work_to_another(real_programs, settings, tmp_path):  # noqa: F811
    (tmp_path / "tale.txt").write_text("Once upon a time.")
    job = EvaluationJob(
        real_programs.hybrid,
        real_programs.tokenizer,
        {"target": "SM8650", "graph": "prefill", "tasks": ["tale"], "limit": None, "num_fewshot": None},
        {"tale": tmp_path / "tale.txt"},
        *[None] * 3,
        states=tmp_path / "states",
    )
    gone = replace(settings, name="gone", serial="nowhere:1", runner="qnn_llama_runner", build_path="/nowhere")
    found = evaluate_on_phones([gone, settings], job, Progress(tmp_path / "log"))
    assert (found.device, found.facts["graph"], found.facts["runner"]) == (settings.name, "prefill", "hexport")
    assert "the work goes to phones with another runner" in (tmp_path / "log").read_text()
