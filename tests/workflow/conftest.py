"""A copy of the workflow beside two tiny random models, built once by the real scripts."""

import shutil
from pathlib import Path

import pytest
from workflow_tree import Tree, copy_workflow, write_checkpoint

CONFIG = """\
socs: [SM8650]
models:
  a:
    checkpoint: checkpoints/a
    calibration: {prompts: [Once upon a time, "The sea, the sea"]}
    max_seq_len: 32
    prompts: [Once]
    seq_len: 8
  b:
    checkpoint: checkpoints/b
    max_seq_len: 32
    calibration: {text: text.txt}
"""
DEVICES = "devices:\n  emulator: {kind: emulator, soc: SM8650}\n"


def build(path: Path) -> None:
    copy_workflow(path)
    (path / "config.yaml").write_text(CONFIG)
    (path / "devices.yaml").write_text(DEVICES)
    (path / "text.txt").write_text("It was a dark and stormy night; the rain fell in torrents.\n" * 4)
    for seed, name in enumerate("ab"):
        write_checkpoint(path / "checkpoints" / name, seed)
    Tree(path).snakemake()


@pytest.fixture(scope="session")
def built(keep) -> Tree:
    """The tree after `snakemake`: never change it, take `tree`."""
    return Tree(keep("built", build))


@pytest.fixture
def tree(built, tmp_path) -> Tree:
    """A copy of `built`, with all times and Snakemake's memory."""
    path = tmp_path / "tree"
    shutil.copytree(built.path, path, symlinks=True)
    return Tree(path)
