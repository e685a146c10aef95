"""The profile for Slurm, on a real one of one node: a matrix of programs, and what goes wrong on clusters."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from forks import FORKS
from workflow_tree import Tree, copy_workflow, write_checkpoint

from hexport.provenance import manifest_path

pytestmark = pytest.mark.xdist_group("slurm")
CONFIG = """\
socs: [SM8650, SM8750]
models:
  a:
    checkpoint: checkpoints/a
    calibration: {prompts: [Once upon a time]}
    modes: [kv, hybrid, lookahead]
    max_seq_len: 32
    prefill_ar_len: 8
    ngram: 3
    window: 2
    gcap: 2
    prompts: [Once]
    seq_len: 8
"""
DEVICES = "devices: {emulator: {kind: emulator, soc: SM8650}}\n"
TEMPLATES = [f"artifacts/a/16a8w/ctx32/templates/V75/{name}.json" for name in ("ar1", "ar8")]
TEMPLATE = TEMPLATES[0]
CHECKPOINT = "artifacts/a/checkpoint/model.safetensors"
# In the place of scripts/lower_templates.py: it tells that it runs, does what the test wants, and writes its file.
STAND_IN = """\
import os, sys, time
from pathlib import Path

from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import write_json, write_manifest

options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
output, place = Path(options["--output"]), Path({place!r})
sys.stdin.read()
with made_once([output], __file__, {{}}, {{}}, Progress()) as there:
    if not there:
        attempt = len(list(place.glob(f"runs.{{output.stem}}.*")))
        (place / f"runs.{{output.stem}}.{{attempt}}").write_text(os.environ["SLURM_JOB_ID"])
{body}
        write_json(output, {{}})
        write_manifest(output, script=__file__, inputs={{}}, params={{}}, stages={{}})
"""


@pytest.fixture
def cluster(slurm, tmp_path) -> Cluster:
    """A workflow with one model, whose checkpoint is there already."""
    copy_workflow(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "devices.yaml").write_text(DEVICES)
    write_checkpoint(tmp_path / "checkpoints" / "a")
    Tree(tmp_path).snakemake(CHECKPOINT)
    found = Cluster(tmp_path, slurm)
    yield found
    found.stop()


def stand_in(cluster: Cluster, *body: str) -> None:
    """Let the job that makes a template run these lines."""
    text = STAND_IN.format(place=str(cluster.path), body="\n".join(f"        {line}" for line in body))
    (cluster.path / "scripts" / "lower_templates.py").write_text(text)


def runs(cluster: Cluster, name: str = "*") -> list[str]:
    """The numbers of the jobs that did the stand-in's work."""
    return [file.read_text() for file in sorted(cluster.path.glob(f"runs.{name}.*"))]


def memory_mb(cluster: Cluster, job: str) -> float:
    """What a job asked for."""
    value = re.search(r"MinMemoryNode=([0-9.]+)([MG])", cluster.command("scontrol", "show", "job", job))
    return float(value[1]) * {"M": 1, "G": 1024}[value[2]]


def processes_in(folder: Path) -> list[str]:
    """Those that work in a folder, but for Snakemake's own."""
    found = subprocess.run(["pgrep", "--full", f"{folder}/scripts/"], capture_output=True, text=True)
    return found.stdout.split()


def test_a_matrix_is_built_on_nodes(slurm, built, tmp_path):
    """What the local build of the same model has made already is not made again."""
    shutil.copytree(built.path, tmp_path / "tree", symlinks=True)
    tree, cluster = Tree(tmp_path / "tree"), Cluster(tmp_path / "tree", slurm, FORKS.python)
    tree.edit("config.yaml", "socs: [SM8650]", "socs: [SM8650, SM8750]")
    sizes = "prefill_ar_len: 8\n    ngram: 3\n    window: 2\n    gcap: 2"
    of_a = "max_seq_len: 32\n    prompts"
    tree.edit("config.yaml", of_a, f"modes: [kv, hybrid, lookahead]\n    {sizes}\n    {of_a}")
    said = cluster.snakemake("export")
    folders = [cluster.path / "artifacts/a/16a8w/ctx32" / soc for soc in ("SM8650", "SM8750")]
    programs = [folder / f"{mode}_llama_qnn.pte" for folder in folders for mode in ("kv", "hybrid", "lookahead")]
    assert sum(f"built {program.relative_to(cluster.path)}: " in said for program in programs) == 5
    assert "programs: 6 built, 2 as they were" in said
    for program in programs:
        manifest = json.loads(manifest_path(program).read_text())
        assert manifest["soc"] == program.parent.name
    assert tree.stale("export") == set()


def test_jobs_that_are_killed_for_their_memory_and_over_their_time_are_tried_again(cluster):
    """The second one gets the memory that the first attempt lacked."""
    held = "    held = bytearray(3_000_000_000 if output.stem == 'ar1' else 1)"
    stand_in(cluster, "if attempt == 0:", held, "    time.sleep(600)")
    snakemake = cluster.start(*TEMPLATES)
    wait_until(lambda: len(runs(cluster)) == 2)
    cluster.command("scontrol", "update", f"jobid={runs(cluster, 'ar8')[0]}", "timelimit=0")
    said = cluster.end(snakemake)
    assert said.count("Trying to restart job") == 2
    for name in ("ar1", "ar8"):
        first, second = (memory_mb(cluster, job) for job in runs(cluster, name))
        assert second > 1.2 * first


def test_a_node_that_goes_down_and_comes_back(cluster):
    stand_in(cluster, "if attempt == 0:", "    time.sleep(600)")
    snakemake, node = cluster.start(TEMPLATE), cluster.command("sinfo", "--noheader", "--format=%n").strip()
    wait_until(lambda: runs(cluster))
    cluster.command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.command("scontrol", "update", f"nodename={node}", "state=resume")
    (job,) = runs(cluster)
    wait_until(lambda: "PENDING" in cluster.command("scontrol", "show", "job", job))
    wait_until(lambda: not processes_in(cluster.path))  # slurmd drains a node that gets a job which it still has
    time.sleep(5)
    cluster.command("scontrol", "update", f"jobid={job}", "starttime=now")  # Slurm lets it wait for two minutes
    cluster.end(snakemake)
    assert (cluster.path / TEMPLATE).is_file()


def test_what_runs_on_after_snakemake_is_killed_is_not_done_twice(cluster):
    stand_in(cluster, "time.sleep(12)")
    snakemake = cluster.start(TEMPLATE)
    wait_until(lambda: runs(cluster))
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    assert len(cluster.queue()) == 1
    Tree(cluster.path).snakemake("--unlock")  # as docs/cluster.md says
    cluster.snakemake(TEMPLATE)
    assert (cluster.path / TEMPLATE).is_file()
    assert len(runs(cluster)) == 1


def test_ctrl_c_empties_the_queue(cluster):
    stand_in(cluster, "time.sleep(600)")
    snakemake = cluster.start(TEMPLATE)
    wait_until(lambda: runs(cluster))
    os.kill(snakemake.pid, signal.SIGINT)
    cluster.end(snakemake, code=1)
    wait_until(lambda: not cluster.queue())
    assert not (cluster.path / TEMPLATE).exists()
