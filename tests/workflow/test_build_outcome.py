"""What a build says of its programs, where one model fails and another does not."""

import json
import re

import pytest
from safetensors.numpy import load_file, save_file

PROGRAM = "artifacts/{}/16a8w/ctx32/SM8650/kv_llama_qnn.pte"


ON_NODES = ("--executor", "here", "--jobs", "2", "--seconds-between-status-checks", "0")
PREPARE = ("--groups", "convert_checkpoint=prepare", "extract_tokenizer=prepare", "encode_calibration=prepare")


@pytest.mark.parametrize("options", [(), (*ON_NODES, *PREPARE)], ids=["here", "in a group on a node"])
def test_a_model_that_fails_does_not_stop_another_and_the_summary_says_why(tree, options):
    program = tree.path / PROGRAM.format("a")
    program.unlink()
    weights = tree.path / "checkpoints" / "b" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    done = tree.snakemake("export", *options, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    (built,) = [line for line in lines if line.startswith("built ")]
    stages = json.loads((program.parent / f"{program.name}.manifest.json").read_text())["stages"]
    assert built.startswith(f"built {PROGRAM.format('a')}: {program.stat().st_size / 1e6:.1f} MB; its jobs took ")
    assert float(built.split("took ")[1].split(" s")[0]) >= stages["assemble"]["seconds"]
    start = next(i for i, line in enumerate(lines) if line.startswith("programs: "))
    assert re.fullmatch(r"programs: 1 built, 0 as they were, 1 not built; this took \d+ s", lines[start])
    assert lines[start - 1] == f"program: {PROGRAM.format('a')}: {program.stat().st_size / 1e6:.1f} MB"
    assert lines[start + 1 : start + 3] == [
        f"not built: {PROGRAM.format('b')}",
        "failed: convert_checkpoint, artifacts/b/checkpoint/model.safetensors: checkpoints/b: tensor "
        "model.norm.weight holds NaN or infinity; log: artifacts/b/checkpoint/checkpoint.log",
    ]
    assert sum(line.startswith("failed: ") for line in lines) == 1
