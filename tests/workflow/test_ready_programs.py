"""A model whose programs are ready (`pre_gen_pte`): they are run, and nothing is built for them."""

import json
import os
import shutil

import pytest

PROGRAM = "16a8w/ctx32/SM8650-emulator/kv_llama_qnn.pte"
RESULT = "16a8w/ctx32/SM8650-emulator/emulator/kv/result.json"
ENTRY = """\
  ready:
    pre_gen_pte: programs
    tokenizer: checkpoints/a
    prompts: [Once]
    seq_len: 8
    max_seq_len: 32
"""
RUN = {"run_program ready/16a8w/32/SM8650-emulator/emulator/kv"}


@pytest.fixture
def ready(tree):
    """The tree with one more model, which runs the program of model a."""
    (tree.path / "programs").mkdir()
    shutil.copy(tree.path / "artifacts/a" / PROGRAM, tree.path / "programs")
    config = tree.path / "config.yaml"
    config.write_text(config.read_text() + ENTRY)
    return tree


def error_of(tree, *args: str) -> str:
    done = tree.snakemake("-n", *args, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def answers(tree, model: str) -> dict:
    return json.loads((tree.path / "artifacts" / model / RESULT).read_text())


def test_only_the_tokenizer_is_built_and_the_program_run(ready):
    done = ready.snakemake("-n", "export", "quantize")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert "note: model ready is left out of quantize and export: it runs the programs in programs\n" in done.stderr
    assert ready.run() == {"extract_tokenizer ready", *RUN}
    result, expected = answers(ready, "ready"), answers(ready, "a")
    assert [prompt["token_ids"] for prompt in result["prompts"]] == [
        prompt["token_ids"] for prompt in expected["prompts"]
    ]
    assert {key: result[key] for key in ("model", "recipe", "target", "device", "mode")} == {
        "model": "ready",
        "recipe": "16a8w",
        "target": "SM8650-emulator",
        "device": "emulator",
        "mode": "kv",
    }
    assert {path.name for path in (ready.path / "artifacts/ready").iterdir()} == {"16a8w", "tokenizer"}
    assert not list((ready.path / "artifacts/ready").rglob("*.pte"))
    assert ready.stale() == set()

    program = ready.path / "programs/kv_llama_qnn.pte"
    os.utime(program)
    assert ready.stale() == set()
    program.write_bytes(program.read_bytes() + b"\0")
    assert ready.stale() == RUN
    ready.edit("config.yaml", "pre_gen_pte: programs\n", "pre_gen_pte: programs\n    num_sharding: 2\n")
    assert ready.stale() == RUN


def test_ready_programs_in_place_of_built_ones(ready):
    run = "run_program a/16a8w/32/SM8650-emulator/emulator/kv"
    ready.edit("config.yaml", "  a:\n", "  a:\n    pre_gen_pte: programs\n")
    assert ready.stale("artifacts/a/" + RESULT) == {run}
    ready.edit("config.yaml", "  a:\n    pre_gen_pte: programs\n", "  a:\n")
    assert ready.stale("artifacts/a/" + RESULT) == set()


def test_a_missing_program_is_one_line(ready):
    ready.edit("config.yaml", "programs\n", "programs\n    modes: [kv, hybrid]\n")
    assert error_of(ready) == (
        "error: config.yaml: models.ready.pre_gen_pte: programs/hybrid_llama_qnn.pte: no such file, "
        "and mode hybrid needs it; in programs: kv_llama_qnn.pte"
    )
    ready.edit("config.yaml", "    modes: [kv, hybrid]\n", "")
    assert error_of(ready, "artifacts/ready/" + RESULT.replace("kv", "hybrid")) == (
        "error: programs/hybrid_llama_qnn.pte: no such file, and mode hybrid needs it; in programs: kv_llama_qnn.pte"
    )


@pytest.mark.parametrize("artifact", [PROGRAM, "16a8w/quant_attrs.json", "checkpoint/config.json"])
def test_what_is_not_built_cannot_be_a_target(ready, artifact):
    assert error_of(ready, f"artifacts/ready/{artifact}") == (
        "error: models.ready runs the programs in programs, and nothing is built from its checkpoint; "
        "remove pre_gen_pte to build it"
    )
