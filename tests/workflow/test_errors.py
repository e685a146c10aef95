"""What a user sees of a wrong config: one line on stderr for each fault, before any job."""

import re
from pathlib import Path

import pytest

PROFILE = "Using workflow specific profile profiles/default for setting default command line arguments.\n"


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
    lines = error_lines(tree, "-n", "artifacts/a/16a8w/SM8450/kv_llama_qnn.pte")
    assert lines == [
        "error: recipe 16a8w has kv_bits 16, which need V73 or newer; SM8450 is V69: "
        "set kv_bits: 8 in a recipe based on it, or remove SM8450 from socs"
    ]
    lines = error_lines(tree, "-n", "artifacts/a/16a8w/SM8650/emulator/kv/result.json")
    assert lines == ["error: device emulator runs programs for SM8650-emulator, not for SM8650"]


def test_config_on_the_command_line(tree):
    assert error_lines(tree, "-n", "--config", "socs=[SM8651]") == [
        "error: config.yaml: socs[0]: unknown SoC 'SM8651'; did you mean SM8650?"
    ]
    (tree.path / "other.yaml").write_text("models: {c: {checkpoint: nowhere, prompts: [a]}}")
    (line,) = error_lines(tree, "-n", "--config", "file=other.yaml")
    assert line.startswith("error: other.yaml: models.c.checkpoint: nowhere: no such file or folder")
    (tree.path / "config.yaml").unlink()
    assert error_lines(tree, "-n") == ["error: config.yaml: no such file"]


def test_a_bug_is_one_line_that_names_its_trace(tree):
    (tree.path / "scripts/hexport/config/reading.py").write_text("def read_config(*_):\n    return 1 / 0\n")
    (line,) = error_lines(tree, "-n")
    match = re.fullmatch(r"error: a bug of hexport, not of yours: ZeroDivisionError; (.+) has the trace: .*", line)
    assert "return 1 / 0\n" in (tree.path / match[1]).read_text()


def test_from_another_folder(tree, tmp_path):
    """`-s` and `--directory` work: paths of the config count from the working folder."""
    elsewhere = type(tree)(tmp_path)
    done = elsewhere.snakemake("-s", str(tree.path / "Snakefile"), "--directory", str(tree.path), "-n")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert not Path(tmp_path, "artifacts").exists()
