"""The fake-quantised phase: what the whole model computes as executorch quantises it, beside the float phase."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_flow import convert_decoder, decoder_inputs
from small_models import random_tokens
from word_tokenizer import save_word_tokenizer, words

from hexport.decoder import stream
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison
from hexport.evaluation.fp import fp_scores
from hexport.evaluation.qdq import QuantisedScores
from hexport.evaluation.scores import token_scores
from hexport.file_hashes import sha256
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.quant_attrs import save_quant_attrs
from hexport.quantization.recipe import Precision, Recipe

pytestmark = [pytest.mark.usefixtures("qnn_sdk"), pytest.mark.slow]

CONTEXT = 48
BIASES, WINDOWS = "llama, all biases, linear scaling", "gemma3, listed layers slide, full layers scaled"
TOKENS = [token % 48 for token in random_tokens(50, 140)]
SAMPLES = [TOKENS[:40], TOKENS[40:57]]
SEQUENCES = [TOKENS[60:93], TOKENS[93:105], TOKENS[105:139]]
EIGHT_BITS, FOUR_BITS = Recipe(), Recipe(precision=Precision(weight_bits=4))


@pytest.fixture(scope="module")
def quantised(small_model):
    """`quantised(family, recipe)`: checkpoint, quant attrs and recipe."""

    @functools.cache
    def build(family: str, recipe: Recipe = EIGHT_BITS):
        checkpoint = Checkpoint(small_model(family)[1])
        return checkpoint, calibrate(checkpoint, SAMPLES, recipe, Progress()), recipe

    return build


@pytest.mark.parametrize(("family", "recipe"), [(BIASES, EIGHT_BITS), (WINDOWS, FOUR_BITS)])
def test_scores_are_those_of_the_whole_converted_model(quantised, family, recipe):
    """But for sums in another order, which now and then change a 16-bit code by one."""
    checkpoint, attrs, recipe = quantised(family, recipe)
    scores = QuantisedScores(checkpoint, attrs, recipe, CONTEXT, Progress())
    found = scores(SEQUENCES)
    whole, _ = convert_decoder(checkpoint, attrs, recipe, CONTEXT, 8)
    for sequence, quantised_scores in zip(SEQUENCES, found, strict=True):
        with torch.no_grad():
            logits = whole(*decoder_inputs(checkpoint.config, sequence[:-1], CONTEXT))[0][0]
        expected = token_scores(logits, sequence)
        error = np.abs(quantised_scores.log_probs - expected.log_probs)
        noise = np.abs(scores.float_scores[tuple(sequence)].log_probs - expected.log_probs)
        assert error.mean() < noise.mean() / 20
        assert error.max() < 0.02


def test_scores_and_figures_do_not_depend_on_what_shares_a_call_or_a_pass(quantised, monkeypatch):
    """With windows, and with encodings loaded a second time. The float decoder runs beside."""
    checkpoint, attrs, recipe = quantised(WINDOWS, FOUR_BITS)
    together, alone = (QuantisedScores(checkpoint, attrs, recipe, CONTEXT, Progress()) for _ in range(2))
    found = together(SEQUENCES)
    monkeypatch.setattr(stream, "PACK_TOKENS", 1)
    monkeypatch.setattr(stream, "WAVE_TOKENS", 40)
    for a, b in zip(found, alone(SEQUENCES), strict=True):
        assert np.abs(a.log_probs - b.log_probs).max() < 0.02
        assert np.abs(a.log_probs - b.log_probs).mean() < 2e-3
    for a, b in zip(together.of_float(SEQUENCES), fp_scores(checkpoint, CONTEXT, SEQUENCES, Progress()), strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
    assert together.comparison.rows == sum(len(sequence) - 1 for sequence in SEQUENCES)
    assert together.comparison.as_json() == pytest.approx(alone.comparison.as_json(), rel=0.01, abs=0.02)


def test_a_layer_coded_coarsely_is_the_one_whose_sqnr_falls(quantised):
    checkpoint, attrs, recipe = quantised(BIASES)
    point = "layers.2.feed_forward.down_proj.conv2d"
    fine = attrs.encoding(point)
    coarse = replace(fine, scale=fine.scale * 2**13, zero_point=fine.zero_point >> 13, qmax=fine.qmax >> 13)
    damaged = replace(attrs, activations=attrs.activations | {point: coarse})
    before, after = (QuantisedScores(checkpoint, of, recipe, CONTEXT, Progress()) for of in (attrs, damaged))
    for scores in (before, after):
        scores(SEQUENCES)
    lost = [b.db - a.db for b, a in zip(before.layers, after.layers, strict=True)]
    assert lost[:2] == [0, 0]
    assert lost[2] > 3
    facts = after.layers_as_json()
    assert [layer["layer"] for layer in facts["layers"]] == [0, 1, 2, 3]
    by_sqnr = sorted(facts["layers"], key=lambda layer: layer["sqnr_db"])
    assert facts["worst_layers"] == [layer["layer"] for layer in by_sqnr]


def test_qdq_json(run_script, quantised, small_model, tmp_path):
    from evaluate_qdq import main

    _, attrs, _ = quantised(BIASES)
    facts = {"checkpoint": sha256(small_model(BIASES)[1] / "model.safetensors"), "calibration": {}}
    save_quant_attrs(tmp_path / "quant_attrs.json", attrs, model="m", recipe="r", **facts)
    save_word_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text(words(TOKENS[60:]))
    run_script(
        main,
        {
            "tasks": ["mine"],
            "limit": 1,
            "num_fewshot": None,
            "max_seq_len": CONTEXT,
            "recipe": "r",
            "recipe_spec": {"weight_bits": 8},
        },
        checkpoint=small_model(BIASES)[1] / "model.safetensors",
        tokenizer=tmp_path / "tokenizer" / "tokenizer.json",
        local=f"mine={tmp_path / 'text.txt'}",
        states=tmp_path / "states",
        output=tmp_path / "qdq.json",
        **{"quant-attrs": tmp_path / "quant_attrs.json"},
    )
    content = json.loads((tmp_path / "qdq.json").read_text())
    assert (content["phase"], content["tokens"], content["limit"]) == ("qdq", 80, 1)
    assert 0.9 < content["perplexity_ratio"]["mine"] < 1.1
    assert content["perplexity_ratio"]["mine"] != 1
    assert Comparison().as_json().keys() | {"layers", "worst_layers"} <= content.keys()
    assert len(content["layers"]) == 4
