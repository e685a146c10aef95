"""hexport as a module of another workflow, with a config of its own."""

import shutil
import subprocess

import pytest
from workflow_tree import SNAKEMAKE, Tree, environment, jobs

PROGRAM = "artifacts/b/16a8w/ctx32/SM8650/kv_llama_qnn.pte"
OUTER = """\
module hexport:
    snakefile: "{snakefile}"
    config: {{"models": {{"b": {model}}}}}

use rule * from hexport as hexport_*

rule measure:
    default_target: True
    input: "{program}"
    output: "size.txt"
    shell: "wc -c < {{input}} > {{output}}"
"""
MODEL = {"checkpoint": "checkpoints/b", "max_seq_len": 32, "calibration": {"text": "text.txt"}}


@pytest.fixture
def outer(built, tmp_path) -> Tree:
    """Another workflow in a folder of its own, with what hexport has made of a model, but for its program."""
    for name in ("artifacts", "checkpoints", ".snakemake"):
        shutil.copytree(built.path / name, tmp_path / name)
    for name in ("text.txt", "devices.yaml"):
        shutil.copy2(built.path / name, tmp_path / name)
    (tmp_path / PROGRAM).unlink()
    return Tree(tmp_path)


def snakemake(outer: Tree, built: Tree, *args: str, **more: object) -> subprocess.CompletedProcess:
    snakefile = OUTER.format(snakefile=built.path / "Snakefile", program=PROGRAM, model=MODEL | more)
    (outer.path / "Snakefile").write_text(snakefile)
    options = ("--cores", "1", "--max-checksum-file-size", "20000000000")
    command = [*SNAKEMAKE, *options, *args]
    return subprocess.run(command, cwd=outer.path, env=environment(), capture_output=True, text=True)


def test_its_program_is_built_for_the_outer_workflow(outer, built):
    done = snakemake(outer, built)
    assert done.returncode == 0, done.stderr
    assert "hexport_assemble_program" in {job.split()[0] for job in jobs(done.stdout + done.stderr)}
    assert (outer.path / PROGRAM).read_bytes() == (built.path / PROGRAM).read_bytes()
    assert int((outer.path / "size.txt").read_text()) == (built.path / PROGRAM).stat().st_size


def test_a_fault_in_its_config_is_one_line(outer, built):
    done = snakemake(outer, built, "-n", max_seq_length=7)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: config of module hexport: models.b.max_seq_length: unknown key; did you mean max_seq_len?"
    ]
