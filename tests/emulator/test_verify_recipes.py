"""Verification refuses no good program, whatever its recipe and its shards; a mistake shows in spite of the noise."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import MODELS, random_model, random_tokens
from small_program import changed
from tiny_model import CONTEXT
from verifying import verified

from hexport.decoder.weights import Checkpoint
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.weight_search import search

LLAMA, GEMMA3 = "llama, llama3 scaling", "gemma3, listed layers slide, full layers scaled"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
BLOCKS = {"weight_bits": 4, "granularity": "per_block", "block_size": 16}
# Model, recipe, shards.
GOOD = {
    "4 bits per channel, 8-bit keys and values": (LLAMA, {"weight_bits": 4, "kv_bits": 8, "masked_softmax": True}, 1),
    "8-bit keys and values, both turned": (LLAMA, {**BLOCKS, "kv_bits": 8, "r2": True, "r3": True}, 1),
    "GPTQ in blocks, rotated, 3 shards": (LLAMA, {**BLOCKS, "seq_mse": 10, "gptq": True, "r1": True}, 3),
    "widened, embeddings in 8 bits, 2 shards": (GEMMA3, {**BLOCKS, "widen": 32, "embedding_bits": 8}, 2),
}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in GOOD])
def built(request, lowerings, keep) -> tuple[Path, list[int]]:
    """The folder of a model, with a good program and one whose layers 1 and 2 are exchanged; and a text."""
    model_type, spec, n_shards = GOOD[request.param]

    def build(folder: Path) -> None:
        kind, features = MODELS[model_type]
        features = features | ({"layer_types": features["layer_types"][:3]} if "layer_types" in features else {})
        random_model(kind, **features | SIZES).save_pretrained(folder)
        recipe = recipe_from(spec, "recipe")
        checkpoint = Checkpoint(folder, recipe.basis)
        tokens = random_tokens(checkpoint.config.vocab_size, 3 * CONTEXT)
        samples = [tokens[:CONTEXT], tokens[CONTEXT : 2 * CONTEXT]]
        weights = search(checkpoint, samples, recipe, Progress(), folder / "weights") if recipe.is_searched else {}
        attrs = calibrate(checkpoint, samples, recipe, Progress(), weights)
        swapped = changed(checkpoint, source=lambda i: [0, 2, 1][i]), replace(attrs, weights=swap(weights))
        for name, model in {"good": (checkpoint, attrs), "swapped": swapped}.items():
            program = lowerings.program(*model, recipe, n_shards=n_shards, prefill=8)
            (folder / f"{name}.pte").write_bytes(program)
        (folder / "text").write_bytes(pickle.dumps(tokens[2 * CONTEXT :]))

    folder = keep(f"verify {request.param}", build)
    return folder, pickle.loads((folder / "text").read_bytes())


def swap(weights: dict) -> dict:
    """Coded weights whose layers 1 and 2 are exchanged."""
    other = {"1": "2", "2": "1"}
    parts = {name: name.split(".") for name in weights}
    return {".".join([*p[:1], other.get(p[1], p[1]), *p[2:]]): weights[name] for name, p in parts.items()}


def test_a_good_program_of_any_recipe_is_not_refused(built):
    folder, text = built
    verification = verified(folder / "good.pte", Checkpoint(folder), text)
    assert (verification.verdict, verification.faults) == ("good", [])


def test_a_mistake_is_named_in_spite_of_its_noise(built):
    folder, text = built
    verification = verified(folder / "swapped.pte", Checkpoint(folder), text)
    assert verification.verdict == "broken"
    assert any("layers 1 and 2 have each other's weights" in fault for fault in verification.faults), (
        verification.faults
    )
