"""What a user sees of a wrong config: one line on stderr for each fault, before any job."""

import json
import re
from pathlib import Path

import pytest

PROFILE = "Using workflow specific profile profiles/default for setting default command line arguments.\n"

TEMPLATE = "__use_yte__: true\n__definitions__: [\"open('ran', 'w').close()\"]\nmodels: {smollm2_135m: }\n"


def error_lines(tree, *args: str) -> list[str]:
    done = tree.snakemake(*args, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.replace(PROFILE, "").splitlines()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "seq_len: 8",
            "sequence_len: 8",
            ["config.yaml: models.a.sequence_len: unknown key; did you mean seq_len?"],
        ),
        ("socs: [SM8650]", "socs: [SM8650", ["config.yaml: line 2: expected ',' or ']', but got ':'"]),
        (
            "socs: [SM8650]",
            "socs: [SM8450]\nartifact: here",
            ["config.yaml: artifact: unknown key; did you mean artifacts?"],
        ),
        (
            "socs: [SM8650]",
            "socs: [SM8450]",
            [
                f"config.yaml: models.{name}.recipe: 16a8w has kv_bits 16, which need V73 or newer; "
                "SM8450 is V69: set kv_bits: 8 in a recipe based on it, or remove SM8450 from socs"
                for name in "ab"
            ],
        ),
    ],
)
def test_a_fault_of_the_config(tree, old, new, expected):
    tree.edit("config.yaml", old, new)
    assert error_lines(tree) == [f"error: {line}" for line in expected]


def test_a_target_that_cannot_be(tree):
    lines = error_lines(tree, "-n", "artifacts/a/16a8w/ctx32/SM8450/kv_llama_qnn.pte")
    assert lines == [
        "error: recipe 16a8w has kv_bits 16, which need V73 or newer; SM8450 is V69: "
        "set kv_bits: 8 in a recipe based on it, or remove SM8450 from socs"
    ]
    lines = error_lines(tree, "-n", "artifacts/a/16a8w/ctx32/SM8650/emulator/kv/result.json")
    assert lines == ["error: device emulator runs programs for SM8650-emulator, not for SM8650"]


def test_config_on_the_command_line(tree):
    assert error_lines(tree, "-n", "--config", "socs=[SM8651]") == [
        "error: config.yaml: socs: unknown SoC 'SM8651'; did you mean SM8650?"
    ]
    (tree.path / "other.yaml").write_text("models: {c: {checkpoint: nowhere, prompts: [a]}}")
    (line,) = error_lines(tree, "-n", "--config", "file=other.yaml")
    assert line.startswith("error: other.yaml: models.c.checkpoint: nowhere: no such file or folder")
    (tree.path / "other.yaml").write_text(TEMPLATE)
    (line,) = error_lines(tree, "-n", "--config", "file=other.yaml")
    assert line.startswith("error: other.yaml: the key '__use_yte__' makes it a template, which executes code; ")
    assert not (tree.path / "ran").exists()
    (tree.path / "config.yaml").unlink()
    assert error_lines(tree, "-n") == ["error: config.yaml: no such file"]


BUG = """\
def read_config(*_):
    return 1 / 0


config_of_module = read_config
"""


def test_a_bug_is_one_line_that_names_its_trace(tree):
    (tree.path / "scripts/hexport/config/reading.py").write_text(BUG)
    (line,) = error_lines(tree, "-n")
    match = re.fullmatch(r"error: a bug of hexport, please report it with its log (.+): ZeroDivisionError: .*", line)
    assert "return 1 / 0\n" in (tree.path / match[1]).read_text()


def test_from_another_folder(tree, tmp_path):
    """`-s` and `--directory` work: paths of the config count from the working folder."""
    elsewhere = type(tree)(tmp_path)
    done = elsewhere.snakemake("-s", str(tree.path / "Snakefile"), "--directory", str(tree.path), "-n")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert not Path(tmp_path, "artifacts").exists()


def test_a_script_that_fails_says_it_in_one_line(tree):
    """Neither Snakemake's trace of the command nor the command itself, which may hold all the prompts."""
    weights = tree.path / "checkpoints" / "b" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\xc0\x7f")
    done = tree.snakemake("artifacts/b/checkpoint/model.safetensors", check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == "error: checkpoints/b: tensor model.norm.weight holds NaN or infinity"
    assert "log: artifacts/b/checkpoint/checkpoint.log" in done.stderr
    assert "CalledProcessError" not in done.stderr
    assert "scripts/convert_checkpoint.py" not in done.stderr
    assert "Traceback" in (tree.path / "artifacts/b/checkpoint/checkpoint.log").read_text()


def test_prompts_may_be_longer_than_a_command_line(tree):
    """4,000 prompts of 40 characters, of which Linux takes 128 kB as one word of a command."""
    prompts = ", ".join(f"prompt number {i:5} of the calibration data" for i in range(4000))
    tree.edit("config.yaml", "{text: text.txt}", f"{{prompts: [{prompts}]}}")
    tree.snakemake("artifacts/b/calibration/tokens.json")
    assert len(json.loads((tree.path / "artifacts/b/calibration/tokens.json").read_text())["samples"]) == 4000
