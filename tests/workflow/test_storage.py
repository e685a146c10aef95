"""Without a shared file system: jobs in folders of their own, which get from a storage what their rules declare."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from forks import FORKS
from workflow_tree import Tree, copy_workflow, environment, write_checkpoint

CONFIG = """\
socs: [SM8650]
models:
  a:
    checkpoint: checkpoints/a
    calibration: {prompts: [Once upon a time, "The sea, the sea"]}
    max_seq_len: 32
    prompts: [Once]
    seq_len: 8
    evaluation: {tasks: [storm]}
tasks:
  storm: {text: text.txt}
"""
OPTIONS = ("--executor", "apart", "--jobs", "2", "--seconds-between-status-checks", "0", "--shared-fs-usage", "none")
STORAGE = ("--default-storage-provider", "fs", "--default-storage-prefix")
PROGRAM = "a/16a8w/ctx32/SM8650-emulator/kv_llama_qnn.pte"
RESULTS = "a/16a8w/ctx32/SM8650-emulator/emulator/kv"


@pytest.mark.skipif(not shutil.which("git"), reason="no git, by which Snakemake knows the workflow's files")
def test_jobs_on_other_machines_get_what_their_rules_declare(built, tmp_path):
    """The whole workflow of a model, from its checkpoint to the report; its program is that of a local build."""
    tree, storage, jobs = Tree(tmp_path / "tree"), tmp_path / "storage", tmp_path / "jobs"
    tree.path.mkdir()
    jobs.mkdir()
    copy_workflow(tree.path)
    (tree.path / "config.yaml").write_text(CONFIG)
    (tree.path / "devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}\n")
    (tree.path / "text.txt").write_text("It was a dark and stormy night; the rain fell in torrents.\n")
    git(tree.path, "init")
    git(tree.path, "add", ".")  # what git knows is what jobs get of the workflow
    write_checkpoint(tree.path / "checkpoints" / "a")
    said = snakemake(tree.path, jobs, storage, "run", "evaluate", "report")
    artifacts = Path(f"{storage}/artifacts")
    assert (artifacts / PROGRAM).read_bytes() == (built.path / "artifacts" / PROGRAM).read_bytes()
    assert (artifacts / RESULTS / "outputs.txt").read_text() == (
        built.path / "artifacts" / RESULTS / "outputs.txt"
    ).read_text()
    assert (artifacts / RESULTS / "evaluation.json").is_file()
    assert (artifacts / "report/index.html").is_file()
    assert f"built artifacts/{PROGRAM}: " in said
    assert len(list(jobs.iterdir())) == 6  # what reads a text of this machine runs here
    assert not (tree.path / "artifacts").exists()
    assert "Nothing to be done" in snakemake(tree.path, jobs, storage, "run", "evaluate", "report")


def snakemake(folder: Path, jobs: Path, storage: Path, *targets: str) -> str:
    tools = [str(Path(FORKS.python).parent)]  # `python`, by which nodes start Snakemake
    if not shutil.which("rsync"):
        tools.append(str(Path(__file__).with_name("executor")))
    variables = {"JOB_FOLDERS": str(jobs), "PATH": ":".join([*tools, os.environ["PATH"]])}
    command = ("-m", "snakemake", *OPTIONS, *STORAGE, str(storage), *targets)
    done = FORKS.run(*command, cwd=folder, env=environment() | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
