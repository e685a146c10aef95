"""Layers compared one by one, of a recipe with points that other recipes have not."""

import pytest
from tiny_model import EMULATOR, save_llama

from hexport.decoder.weights import Checkpoint
from hexport.evaluation.layer_comparison import compare_layers
from hexport.lowering.decoder_graph import DecoderGraph
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.target import target_named

SIZES = {"num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 2}
NARROW = {
    "weight_bits": 8,
    "granularity": "per_channel",
    "kv_bits": 8,
    "embedding_bits": 8,
    "overrides": [{"points": "attention.v_proj", "activation_bits": 8, "activation_symmetric": True}],
}
TOKENS = [256, *b"Once upon a tim"]


def test_values_in_the_codes_of_their_cache_and_embeddings_in_8_bits_are_compared(lowerings, tmp_path):
    save_llama(tmp_path / "checkpoint", num_key_value_heads=2, **SIZES)
    recipe, target = recipe_from(NARROW, "narrow"), target_named(EMULATOR)
    checkpoint = Checkpoint(tmp_path / "checkpoint", recipe.basis)
    attrs = calibrate(checkpoint, [TOKENS], recipe, Progress())
    templates = lowerings.templates(checkpoint.config, recipe, target, len(TOKENS), len(TOKENS))
    graph = DecoderGraph(checkpoint.config, templates, attrs)
    found = compare_layers(graph, checkpoint, recipe, target, TOKENS, Progress())
    prologue, layer, _ = found.parts
    for part, name in ((prologue, "mul"), (layer, "attention.v_proj.conv2d")):
        point = next(point for point in part.points if point.point == name)
        assert point.max_difference <= 1
        assert point.emulator_noise == pytest.approx(point.qdq_noise, rel=0.1)
    assert prologue.emulator_to_qdq_db > 80
