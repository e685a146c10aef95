"""Hidden states behind the last layer are computed once for the same tokens, and are no others than without."""

import os
import time

import numpy as np
import pytest
from small_models import random_tokens

from hexport.decoder import last_states, stream
from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.last_states import prune
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison
from hexport.evaluation.device import References, device_scores
from hexport.evaluation.fp import fp_scores
from hexport.evaluation.states import float_states, quantised_states
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.quant_attrs import save_quant_attrs
from hexport.quantization.recipe import Recipe
from hexport.runtime.graph import GraphSizes

FAMILIES = ["llama, all biases, linear scaling", "qwen3, upper layers slide, tied"]
CONTEXT = 32
TOKENS = random_tokens(50, 90)
SEQUENCES = [TOKENS[:33], TOKENS[40:52], TOKENS[52:80]]


class NoLayers(Checkpoint):
    """Its layers cannot be loaded."""

    def layer_parameters(self, layer: int) -> dict:
        raise AssertionError(f"layer {layer} is read")


@pytest.fixture
def folder(small_model):
    return small_model(FAMILIES[0])[1]


def log_probs(scores) -> np.ndarray:
    return np.concatenate([each.log_probs for each in scores])


def test_layers_are_passed_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "PACK_TOKENS", 1)
    monkeypatch.setattr(stream, "WAVE_TOKENS", 30)  # two waves
    kept = float_states(tmp_path, Checkpoint(folder), CONTEXT)
    plain = fp_scores(Checkpoint(folder), CONTEXT, SEQUENCES, Progress())
    first = fp_scores(Checkpoint(folder), CONTEXT, SEQUENCES, Progress(), kept)
    again = fp_scores(NoLayers(folder), CONTEXT, SEQUENCES, Progress(tmp_path / "log"), kept)
    assert np.array_equal(log_probs(plain), log_probs(first))
    assert np.array_equal(log_probs(first), log_probs(again))
    assert "layer" not in (tmp_path / "log").read_text()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_other_tokens_contexts_and_checkpoints_have_their_own(folder, small_model, tmp_path):
    kept = float_states(tmp_path, Checkpoint(folder), CONTEXT)
    fp_scores(Checkpoint(folder), CONTEXT, SEQUENCES, Progress(), kept)
    with pytest.raises(AssertionError, match="layer 0 is read"):
        fp_scores(NoLayers(folder), CONTEXT, [*SEQUENCES, TOKENS[:5]], Progress(), kept)
    for other in (folder, CONTEXT + 1), (small_model(FAMILIES[1])[1], CONTEXT):
        assert float_states(tmp_path, Checkpoint(other[0]), other[1]) != kept


def test_what_is_damaged_is_computed_anew(folder, tmp_path):
    kept = float_states(tmp_path, Checkpoint(folder), CONTEXT)
    first = fp_scores(Checkpoint(folder), CONTEXT, SEQUENCES, Progress(), kept)
    [file] = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert np.array_equal(
        log_probs(fp_scores(Checkpoint(folder), CONTEXT, SEQUENCES, Progress(), kept)), log_probs(first)
    )


def test_what_is_old_or_too_much_goes(tmp_path, monkeypatch):
    now = time.time()
    ages = {"new": 10, "read": 100, "less": 1000, "old": 8 * 24 * 3600}
    for name, age in ages.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(bytes(1000))
        (tmp_path / f"{name}.safetensors.manifest.json").write_text("{}")
        os.utime(file, (now - age, now - age))
    prune(tmp_path)
    assert {file.stem for file in tmp_path.glob("*.safetensors")} == {"new", "read", "less"}
    monkeypatch.setattr(last_states, "MOST_BYTES", 2500)
    prune(tmp_path)
    assert {file.name.split(".")[0] for file in tmp_path.iterdir()} == {"new", "read"}
    prune(tmp_path / "none")


class Answers:
    """A device that gives the float decoder's own logits."""

    graph, name = GraphSizes(8, CONTEXT, 50), "prefill"

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint

    def read(self, inputs, progress):
        blocks = []
        decoder = FloatDecoder(self.checkpoint, CONTEXT)
        stream.stream(
            [decoder], self.checkpoint.config, inputs, progress, lambda _, logits: blocks.append(logits.numpy())
        )
        yield from blocks


@pytest.mark.usefixtures("qnn_sdk")
def test_nothing_but_logits_is_computed_beside_a_device_that_is_prepared_for(folder, tmp_path):
    from hexport.evaluation.qdq import FakeQuantisedDecoder, QuantisedScores

    checkpoint, recipe, file = Checkpoint(folder), Recipe(), tmp_path / "quant_attrs.json"
    attrs = calibrate(checkpoint, [TOKENS], recipe, Progress())
    save_quant_attrs(file, attrs, model="m", recipe="r", checkpoint="0" * 64, calibration={})
    of_float = float_states(tmp_path, checkpoint, CONTEXT)
    quantised = quantised_states(tmp_path, checkpoint, (file, None), recipe, CONTEXT)
    beside = QuantisedScores(checkpoint, attrs, recipe, CONTEXT, Progress(), quantised)  # the phase qdq

    def references(checkpoint: Checkpoint) -> References:
        decoders = [FloatDecoder(checkpoint, CONTEXT), FakeQuantisedDecoder(checkpoint, attrs, recipe, CONTEXT)]
        return References(checkpoint.config, decoders, [of_float, quantised])

    beside(SEQUENCES)
    references(checkpoint).prepare([SEQUENCES], Progress(tmp_path / "log"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    comparisons = [Comparison(), Comparison()]
    scores = device_scores(Answers(checkpoint), SEQUENCES, references(NoLayers(folder)), comparisons, Progress())
    assert np.array_equal(log_probs(scores), log_probs(fp_scores(checkpoint, CONTEXT, SEQUENCES, Progress())))
    exact, of_quantised = (comparison.as_json() for comparison in comparisons)
    assert exact["sqnr_db"] is None
    assert exact["top1_agreement"] == 1
    assert of_quantised["sqnr_db"] == pytest.approx(beside.comparison.as_json()["sqnr_db"], abs=0.1)
