"""Artifacts whose bytes are not those of their manifests: made again, or refused where nothing can make them."""

import shutil

import pytest
from workflow_tree import program_jobs

PROGRAM = "artifacts/a/16a8w/ctx32/SM8650-emulator/kv_llama_qnn.pte"
TOKENS = "artifacts/b/calibration/tokens.json"
CHECKPOINT = "artifacts/b/checkpoint/model.safetensors"
RUN = "run_program a/16a8w/32/SM8650-emulator/emulator/kv"


def flip_a_bit(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as file:
        file.write(data)


def test_damaged_artifacts_are_made_again(tree):
    flip_a_bit(tree.path / PROGRAM)
    (tree.path / f"{TOKENS}.manifest.json").write_text("{")
    done = tree.snakemake("-n")
    assert sorted(line for line in done.stderr.splitlines() if line.startswith("note: artifacts")) == [
        f"note: {PROGRAM}: its bytes are not those of its manifest, so it is made again",
        f"note: {TOKENS}: its manifest is damaged, so it is made again",
    ]
    needed = {"assemble_program a/16a8w/32/SM8650-emulator/kv", RUN, "encode_calibration b", "calibrate b/16a8w"}
    assert tree.stale() == needed | program_jobs("b", "SM8650", "kv")


def test_what_follows_is_as_good_as_before(tree):
    """The artifact that is made again is the one that it was, so nothing else runs."""
    before = (tree.path / CHECKPOINT).read_bytes()
    flip_a_bit(tree.path / CHECKPOINT)
    assert tree.run() == {"convert_checkpoint b"}
    assert (tree.path / CHECKPOINT).read_bytes() == before
    assert tree.stale() == set()


@pytest.mark.parametrize("what", ["program", "artifact whose source is gone"])
def test_what_nothing_makes_is_refused_in_one_line(tree, what):
    if what == "program":
        file = "programs/kv_llama_qnn.pte"
        (tree.path / "programs").mkdir()
        for name in (PROGRAM, f"{PROGRAM}.manifest.json"):
            shutil.copy(tree.path / name, tree.path / "programs")
        tree.edit(
            "config.yaml",
            "    checkpoint: checkpoints/a\n",
            "    checkpoint: checkpoints/a\n    pre_gen_pte: programs\n",
        )
    else:
        file = CHECKPOINT
        (tree.path / "checkpoints/b/model.safetensors").unlink()
        tree.edit("config.yaml", "32\n    calibration: {text", "48\n    calibration: {text")
    flip_a_bit(tree.path / file)
    done = tree.snakemake("-n", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    if what == "program":
        assert done.stderr.splitlines()[-1] == (
            f"error: {file}: its bytes are not those of its manifest, and nothing here makes it: get another copy of "
            "it, with its manifest"
        )
