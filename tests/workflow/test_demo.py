"""What `make demo` promises: the real model of config.yaml, from its URI to an answer on the emulator."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from workflow_tree import REPOSITORY, Tree, copy_workflow

from hexport.tokenizers.tokenizer import load_tokenizer

MODEL = "artifacts/smollm2_135m"
RUN = f"{MODEL}/16a8w_r1/ctx512/SM8650-emulator/emulator/hybrid"
ANSWER_TOKENS = 4


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Tree:
    """The repository's own config, with a shorter answer: the emulator takes seconds for each token."""
    path = tmp_path_factory.mktemp("demo")
    copy_workflow(path)
    for name in ("config.yaml", "devices.yaml"):
        shutil.copy2(REPOSITORY / name, path)
    shutil.copytree(REPOSITORY / "demo", path / "demo")
    tree = Tree(path)
    tree.edit("config.yaml", "seq_len: 36", f"seq_len: {23 + ANSWER_TOKENS}")
    tree.snakemake("run")
    return tree


def test_the_answer_is_the_float_models_own(demo):
    """Token for token, as README says."""
    (answer,) = json.loads((demo.path / RUN / "result.json").read_text())["prompts"]
    folder = demo.path / MODEL
    prompt = load_tokenizer(folder / "tokenizer").prompt_ids(answer["prompt"], "Answer briefly.")
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer["token_ids"]])).logits[0, len(prompt) - 1 : -1]
    assert answer["token_ids"] == logits.argmax(dim=-1).tolist()
    assert answer["generated_tokens"] == ANSWER_TOKENS
    assert answer["prompt_tokens"] == len(prompt)
    assert answer["text"] in Path(demo.path / RUN / "outputs.txt").read_text()


def test_a_second_run_does_nothing(demo):
    assert demo.run("run") == set()


def test_manifest_tells_how_the_program_was_made(demo):
    folder = demo.path / MODEL / "16a8w_r1/ctx512/SM8650-emulator"
    manifest = json.loads((folder / "hybrid_llama_qnn.pte.manifest.json").read_text())
    assert manifest["htp_arch"] == "V75"
    assert manifest["context_length"] == 512
    assert manifest["versions"]["qnn"].startswith("v2.49")
    assert manifest["stages"].keys() == {"assemble"}
    assert all(stage["seconds"] >= 0 and stage["peak_rss_mb"] > 0 for stage in manifest["stages"].values())
