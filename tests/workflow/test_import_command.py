"""The example commands of the reference script's README become configs, whose dry run plans what each would make."""

import re
import shlex

import pytest
import yaml
from click.testing import CliRunner
from forks import FORKS
from workflow_tree import REPOSITORY, Tree, copy_workflow, environment

from hexport.config.documents import read_yaml
from import_command import main

LLAMA = "python examples/qualcomm/oss_scripts/llama/llama.py -b build-android"
PHONE, SOC = "-s ${SERIAL_NUM}", "-m ${SOC_MODEL}"
PROMPT = '--prompt "I would like to learn python, could you teach me with a simple example?"'
TASK = "--tasks wikitext --limit 1"
META = "--checkpoint consolidated.00.pth --params params.json --tokenizer_model tokenizer.model"
HYBRID, KV = "--model_mode hybrid --max_seq_len 1024 --prefill_ar_len 128", "--model_mode kv --max_seq_len 1024"
SHORT = '--max_seq_len 128 --prompt "what is 1+1"'
PERPLEXITY = f'{SOC} --prompt "What is 1+1?" --temperature 0 {KV} --decoder_model qwen2_5-0_5b --eval_perplexity'
STORIES = "--checkpoint stories110M.pt --params params.json --tokenizer_model tokenizer.model"
RUN, EXPORT, EVALUATE = "run", "export", "evaluate"
# The flags behind LLAMA, the target that is told, and the place of the program: model, recipe, context length, mode.
COMMANDS = {
    "stories110m": (
        f"{PHONE} {SOC} {STORIES} --tokenizer_bin tokenizer.bin --decoder_model stories110m --model_mode hybrid "
        '--prefill_ar_len 32 --max_seq_len 128 --prompt "Once upon a time"',
        *(RUN, "stories110m/stories110m/128/SM8650/hybrid"),
    ),
    "llama 1b": (
        f"{PHONE} {SOC} {META} --decoder_model llama3_2-1b_instruct {HYBRID} {PROMPT} {TASK}",
        *(RUN, "llama3_2-1b_instruct/llama3_2-1b/1024/SM8650/hybrid"),
    ),
    "llama 3b": (
        f"{PHONE} {SOC} {META} --decoder_model llama3_2-3b_instruct {KV} {PROMPT} {TASK}",
        *(RUN, "llama3_2-3b_instruct/llama3_2-3b/1024/SM8650/kv"),
    ),
    "phi": (
        f"{PHONE} {SOC} --decoder_model phi_4_mini {KV} {PROMPT} {TASK}",
        RUN,
        "phi_4_mini/phi_4_mini/1024/SM8650/kv",
    ),
    "smollm2": (
        f"{PHONE} {SOC} --decoder_model smollm2_135m {HYBRID} {PROMPT} {TASK}",
        *(RUN, "smollm2_135m/16a8w_r1/1024/SM8650/hybrid"),
    ),
    "smollm3": (
        f"{PHONE} {SOC} --decoder_model smollm3-3b {KV} {PROMPT} {TASK}",
        *(RUN, "smollm3-3b/smollm3-3b/1024/SM8650/kv"),
    ),
    **{
        f"{model}": (
            f"{PHONE} {SOC} --temperature 0 {sizes} --decoder_model {model} {PROMPT} {TASK}",
            *(RUN, f"{model}/{model}/1024/SM8650/{mode}"),
        )
        for model, sizes, mode in (
            ("gemma-2b", HYBRID, "hybrid"),
            ("gemma3-1b", HYBRID, "hybrid"),
            ("qwen2_5-0_5b", HYBRID, "hybrid"),
            ("qwen2_5-1_5b", KV, "kv"),
            ("qwen3-0_6b", HYBRID, "hybrid"),
            ("qwen3-1_7b", KV, "kv"),
        )
    },
    "compile only": (
        f"{SOC} {META} --decoder_model llama3_2 --model_mode hybrid --prefill_ar_len 32 {SHORT} --compile_only",
        *(EXPORT, "llama3_2-1b_instruct/llama3_2-1b/128/SM8650/hybrid"),
    ),
    "ready": (
        f"{PHONE} {SOC} {META} --decoder_model llama3_2 --model_mode hybrid --prefill_ar_len 32 {SHORT} "
        "--pre_gen_pte theirs",
        *(RUN, "llama3_2-1b_instruct/llama3_2-1b/128/SM8650/hybrid"),
    ),
    "lookahead": (
        f"{PHONE} {SOC} {META} --decoder_model llama3_2 --model_mode lookahead --prefill_ar_len 32 {SHORT} "
        "--ngram 3 --window 2 --gcap 2",
        *(RUN, "llama3_2-1b_instruct/llama3_2-1b/128/SM8650/lookahead"),
    ),
    "perplexity": (f"{PHONE} {PERPLEXITY} {TASK}", EVALUATE, "qwen2_5-0_5b/qwen2_5-0_5b/1024/SM8650/kv"),
    "perplexity, compile only": (
        f"{PERPLEXITY} {TASK} --compile_only",
        *(EXPORT, "qwen2_5-0_5b/qwen2_5-0_5b/1024/SM8650/kv"),
    ),
}
FILES = ("consolidated.00.pth", "stories110M.pt", "params.json", "tokenizer.model", "theirs/hybrid_llama_qnn.pte")
PARAMS = '{"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "norm_eps": 1e-05}'


@pytest.fixture
def tree(tmp_path) -> Tree:
    """The workflow, and in the place of what the commands name, files that a dry run only has to find."""
    copy_workflow(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PARAMS)
    return Tree(tmp_path)


def imported(tree: Tree, command: str) -> str:
    """What the script says of a command, after which the phone has the SDK that the command leaves to a variable."""
    words = ["scripts/import_command.py", command]
    variables = environment() | {"SERIAL_NUM": "R5CX10ABCDE", "SOC_MODEL": "SM8650"}
    done = FORKS.run(*words, cwd=tree.path, env=variables)
    assert done.returncode == 0, done.stderr
    file = tree.path / "devices.yaml"
    document = yaml.safe_load(file.read_text())
    for device in document["devices"].values():
        if device["kind"] == "adb":
            device["qnn_sdk"] = "sdk"
    file.write_text(yaml.safe_dump(document))
    return done.stdout


def programs(jobs: set[str]) -> set[str]:
    return {job.removeprefix("assemble_program ") for job in jobs if job.startswith("assemble_program ")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_plans_what_the_command_would_make(tree, name):
    flags, target, program = COMMANDS[name]
    said = imported(tree, f"{LLAMA} {flags}")
    assert f"now: .venv/bin/snakemake -n {target}, " in said
    jobs, ready = tree.stale(target), name == "ready"
    assert programs(jobs) == (set() if ready else {program})
    model, recipe, context, soc, mode = program.split("/")
    on_phone = f"{model}/{recipe}/{context}/{soc}/phone-R5CX10ABCDE/{mode}"
    expected = {RUN: {f"run_on_phone {on_phone}"}, EVALUATE: {f"evaluate_phone {on_phone}"}, EXPORT: set()}[target]
    assert {job for job in jobs if "phone-" in job} == expected
    assert (f"calibrate {model}/{recipe}" in jobs) == (not ready)
    if target == EVALUATE:
        assert {f"evaluate_fp {model}/{context}", f"evaluate_qdq {model}/{recipe}/{context}"} <= jobs


@pytest.mark.parametrize(
    "prompt", ["Why is it blue?", "a, b: c", "yes", "12", "- [x]", "#1 {of} 3", "it's", "?", " é… "]
)
def test_any_prompt_is_read_as_it_was_said(tmp_path, prompt):
    words = f"python llama.py -m SM8650 --decoder_model qwen3-0_6b --prompt {shlex.quote(prompt)}"
    files = [f"--{name}={tmp_path}/{name}.yaml" for name in ("config", "devices")]
    done = CliRunner().invoke(main, [words, *files])
    assert done.exit_code == 0, done.output
    assert read_yaml(tmp_path / "config.yaml")["models"]["qwen3-0_6b"]["prompts"] == [prompt]


def test_the_second_of_two_runs_keeps_the_calibration_of_the_first(tree):
    first = f"{LLAMA} {PERPLEXITY} {TASK} --compile_only"
    second = f"{LLAMA} {PHONE} {PERPLEXITY} --tasks wikitext --limit 3 --pre_gen_pte 1st"
    imported(tree, first)
    exported = tree.stale("export")
    said = imported(tree, f"{second} --quant_attrs_path 1st/kv_llama_qnn_quant_attrs.json")
    assert "note: --pre_gen_pte: what hexport has built is kept" in said
    assert "models.qwen2_5-0_5b.evaluation" in said
    model = yaml.safe_load((tree.path / "config.yaml").read_text())["models"]["qwen2_5-0_5b"]
    assert model["calibration"] == {"tasks": ["wikitext"], "limit": 1}
    assert model["evaluation"] == {"tasks": ["wikitext"], "limit": 3}
    assert programs(tree.stale("evaluate")) >= programs(exported)  # and the emulator's, of the first command


def test_the_flags_of_today(tree):
    flags = "--build_folder build-android --device ${SERIAL_NUM} --host desk --soc_model ${SOC_MODEL}"
    sizes = "--model_mode hybrid --max_seq_len 256 --max_context_len 1024 --temperature 0.7"
    data = (
        "--calib_tasks wikitext --calib_limit 2 --eval_methods prompt_eval tasks_eval --eval_tasks piqa --eval_limit 5"
    )
    said = imported(tree, f"python llama.py {flags} --decoder_model qwen3-0_6b {sizes} {PROMPT} {data} --qat -v")
    assert "note: --qat: hexport does not train" in said and "note: -v --verbose: an evaluation always has" in said
    model = yaml.safe_load((tree.path / "config.yaml").read_text())["models"]["qwen3-0_6b"]
    assert model == {
        "modes": ["hybrid"],
        **{"max_seq_len": 1024, "seq_len": 256, "prefill_ar_len": 32, "temperature": 0.7},
        "calibration": {"tasks": ["wikitext"], "limit": 2},
        "evaluation": {"tasks": ["piqa"], "limit": 5},
    }
    (device,) = yaml.safe_load((tree.path / "devices.yaml").read_text())["devices"].values()
    assert device == {
        "kind": "adb",
        **{"serial": "R5CX10ABCDE", "soc": "SM8650", "build_path": "build-android", "qnn_sdk": "sdk"},
        "adb_server": {"host": "desk"},
    }


def test_a_tokenizer_is_made_for_the_model_that_has_it(tree):
    convert = "python -m pytorch_tokenizers.tools.llama2c.convert -t tokenizer.model -o tokenizer.bin"
    done = FORKS.run("scripts/import_command.py", convert, cwd=tree.path, env=environment())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no model of config.yaml has this tokenizer" in done.stderr
    imported(tree, f"{LLAMA} {COMMANDS['stories110m'][0]}")
    (target,) = re.findall("snakemake (.*)", imported(tree, convert))
    assert target == "artifacts/stories110m/tokenizer/tokenizer.bin"


def test_comments_and_what_else_is_there_stay(tree):
    config = "# ours\nsocs: [SM8750] # the new phone\nmodels:\n  qwen3-0_6b: # small\n    modes: [kv]\n"
    config += "    max_seq_len: 512\n"
    (tree.path / "config.yaml").write_text(config)
    devices = "devices:\n  # on my desk\n  s24: {kind: adb, serial: R5CX10ABCDE, soc: SM8650, qnn_sdk: sdk}\n"
    (tree.path / "devices.yaml").write_text(devices)
    said = imported(tree, f"{LLAMA} {COMMANDS['qwen3-0_6b'][0]} --shared_buffer --frobnicate 3")
    assert "note: models.qwen3-0_6b.max_seq_len: 1024 in place of 512" in said
    assert "note: --shared_buffer: the runner decides that" in said
    assert "note: --frobnicate: is no flag that is known; left out" in said
    text = (tree.path / "config.yaml").read_text()
    assert text.startswith("# ours\nsocs: [SM8750, SM8650] # the new phone\nmodels:\n  qwen3-0_6b: # small\n")
    assert "modes: [kv, hybrid]" in text
    found = yaml.safe_load((tree.path / "devices.yaml").read_text())["devices"]
    assert list(found) == ["s24"] and found["s24"]["build_path"] == "build-android"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("ls -l", "runs neither llama.py nor pytorch_tokenizers.tools.llama2c.convert"),
        ("llama.py -m SM8650", "--decoder_model is missing"),
        ("llama.py -m ${NOT_SET} --decoder_model gemma-2b", "${NOT_SET} is not set"),
        ("llama.py -m SM8650 --decoder_model codegen2_1b", "codegen2_1b is not built in; add --checkpoint"),
        ("llama.py -m SM8650 --decoder_model gemma-2b --max_seq_len many", "invalid int value: 'many'"),
        ("llama.py -m SM9999 --decoder_model gemma-2b", "unknown SoC 'SM9999'"),
        ('llama.py --prompt "never ends', "No closing quotation"),
    ],
)
def test_a_command_that_says_too_little_is_one_line_and_writes_nothing(tmp_path, command, line):
    done = FORKS.run(str(REPOSITORY / "scripts" / "import_command.py"), command, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert line in done.stderr
    assert list(tmp_path.iterdir()) == []
