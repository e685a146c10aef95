"""What `make demo` promises: the real model of config.yaml, from its URI to an answer on the emulator, in each mode."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from workflow_tree import REPOSITORY, Tree, copy_workflow

from hexport.tokenizers.tokenizer import load_tokenizer

MODEL = "artifacts/smollm2_135m"
RUNS = f"{MODEL}/16a8w_r1/SM8650-emulator/emulator"
ANSWER_TOKENS = 8
MODES = """
    modes: [kv, hybrid, lookahead]
    prefill_ar_len: 32
    ngram: 3
    window: 2
    gcap: 2"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Tree:
    """The repository's own config in all modes, with a shorter answer: the emulator takes seconds for each token."""
    path = tmp_path_factory.mktemp("demo")
    copy_workflow(path)
    for name in ("config.yaml", "devices.yaml"):
        shutil.copy2(REPOSITORY / name, path)
    shutil.copytree(REPOSITORY / "demo", path / "demo")
    tree = Tree(path)
    tree.edit("config.yaml", "seq_len: 36", f"seq_len: {23 + ANSWER_TOKENS}")
    tree.edit("config.yaml", "\n    modes: [hybrid]", MODES)
    tree.snakemake("run")
    return tree


def test_answer_is_the_float_models_but_for_near_ties(demo):
    """The last digits of a machine's floats move what is rounded in calibration, and so which of two tokens wins that
    the float model holds for almost equally likely. The quantised answer is therefore read by the float model."""
    (answer,) = result(demo, "kv")["prompts"]
    folder = demo.path / MODEL
    prompt = load_tokenizer(folder / "tokenizer").prompt_ids(answer["prompt"], "Answer briefly.")
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer["token_ids"]])).logits[0, len(prompt) - 1 : -1]
    tokens = torch.tensor(answer["token_ids"])
    behind = logits.max(dim=-1).values - logits[torch.arange(ANSWER_TOKENS), tokens]
    assert behind.max() < 1.5
    assert (behind == 0).sum() >= ANSWER_TOKENS - 2
    assert answer["generated_tokens"] == ANSWER_TOKENS
    assert answer["prompt_tokens"] == len(prompt)
    assert answer["text"] in Path(demo.path / RUNS / "kv" / "outputs.txt").read_text()


def result(demo: Tree, mode: str) -> dict:
    return json.loads((demo.path / RUNS / mode / "result.json").read_text())


def test_all_modes_give_the_same_answer(demo):
    results = {mode: result(demo, mode) for mode in ("kv", "hybrid", "lookahead")}
    for mode, found in results.items():
        assert (found["mode"], len(found["prompts"])) == (mode, 1)
        assert found["prompts"][0]["token_ids"] == results["kv"]["prompts"][0]["token_ids"]
        assert ({"accepted_tokens", "decode_steps"} <= found.keys()) == (mode == "lookahead")
    lookahead = results["lookahead"]
    assert lookahead["decode_steps"] + lookahead["accepted_tokens"] == ANSWER_TOKENS - 1


def test_a_second_run_does_nothing(demo):
    assert demo.run("run") == set()


def test_manifest_tells_how_the_program_was_made(demo):
    folder = demo.path / MODEL / "16a8w_r1" / "SM8650-emulator"
    manifest = json.loads((folder / "kv_llama_qnn.pte.manifest.json").read_text())
    assert manifest["htp_arch"] == "V75"
    assert manifest["context_length"] == 512
    assert manifest["versions"]["qnn"].startswith("v2.49")
    assert {"stamp", "compile", "assemble"} <= manifest["stages"].keys()
    assert all(stage["seconds"] >= 0 and stage["peak_rss_mb"] > 0 for stage in manifest["stages"].values())
