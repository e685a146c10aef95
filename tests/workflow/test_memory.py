"""Jobs that do not fit in memory together do not run at one time, and a machine that is too small is named."""

import re

import pytest
from workflow_tree import Tree

STAND_IN = """\
import sys, time
from pathlib import Path

from hexport.provenance import write_manifest

output = Path(sys.argv[sys.argv.index("--output") + 1])
sys.stdin.read()
start = time.time()
time.sleep(1)
output.write_text(f"{start} {time.time()}")
write_manifest(output, script=__file__, inputs={}, params={}, stages={})
"""


@pytest.fixture
def tree(tree) -> Tree:
    """Shards are made by a stand-in that writes down when it ran."""
    (tree.path / "scripts" / "compile_shard.py").write_text(STAND_IN)
    return tree


@pytest.mark.parametrize(("memory", "together"), [("1.2", False), ("16", True)])
def test_jobs_run_together_only_where_they_fit(tree, memory, together):
    """A shard of the tiny model is said to need a little less than 1 GB."""
    tree.edit("config.yaml", "socs: [SM8650]\n", f"socs: [SM8650]\nbuild_memory_gb: {memory}\n")
    targets = [f"artifacts/{model}/16a8w/ctx32/SM8650/shards/kv/1-of-1.bin" for model in "ab"]
    assert {job.split()[0] for job in tree.run(*targets)} == {"compile_shard"}
    (start_a, end_a), (start_b, end_b) = (map(float, (tree.path / target).read_text().split()) for target in targets)
    assert (max(start_a, start_b) < min(end_a, end_b)) == together


def test_a_job_above_what_there_is_is_named_before_anything_runs(tree):
    tree.edit("config.yaml", "socs: [SM8650]\n", "socs: [SM8650]\nbuild_memory_gb: 0.5\n")
    said = tree.snakemake("-n").stderr
    notes = re.findall(r"^note: model (\w), 16a8w, max_seq_len 32, kv for SM8650: a job may need 0\.\d GB", said, re.M)
    assert notes == ["a", "b"]


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("3-of-2", "there is no shard 3 of 2; name one up to 2"),
        ("1-of-9", "num_sharding 9 is more than the 4 parts of the model"),
    ],
)
def test_a_shard_that_is_not_is_one_line(tree, shard, said):
    done = tree.snakemake("-n", f"artifacts/a/16a8w/ctx32/SM8650/shards/kv/{shard}.bin", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}")
    assert "Traceback" not in done.stderr
