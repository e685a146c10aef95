"""Scales tuned end to end: transformers' own model, with the tuned weights in it, comes nearer to itself; resuming."""

from copy import deepcopy

import pytest
import torch
from small_models import random_model

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.quantization import scale_tuning
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.recipe import LAYER_PROJECTIONS
from hexport.quantization.scale_tuning import tuned_scales

pytestmark = pytest.mark.usefixtures("qnn_sdk")

PASSES = 4
SAMPLES = [[5, 49, 0, 17, 17, 3, 44, 8, 21, 30, 2, 9, 13], [7, 7], [48, 1, 6, 33, 12, 12, 40, 11, 2]]
SIZES = {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6, "head_dim": 16, "intermediate_size": 64}
FAMILIES = {
    "qwen2": {},  # biases
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
}
WIDTH = 32  # of a block
NOT_CODED = "layers.1.attention.v_proj"


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return random_model(request.param, **SIZES, **FAMILIES[request.param])


def in_blocks(weight: torch.Tensor) -> CodedWeight:
    """The nearest 4-bit codes of a weight (out, in, 1, 1), a scale for each block of its input channels."""
    blocks = weight.reshape(len(weight), -1, WIDTH)
    scales = blocks.abs().amax(2, keepdim=True) / 7
    codes = (blocks / scales).round().to(torch.int8).reshape(weight.shape)
    return CodedWeight(scales[..., None], codes)


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    """The checkpoint, coded weights, and these in tuned scales."""
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder / "checkpoint")
    checkpoint = Checkpoint(folder / "checkpoint")
    coded = {
        f"layers.{i}.{name}": in_blocks(checkpoint.layer_parameters(i)[f"{name}.weight"])
        for i in range(checkpoint.config.n_layers)
        for name in LAYER_PROJECTIONS
    }
    del coded[NOT_CODED]
    tuned = tuned_scales(checkpoint, SAMPLES, coded, PASSES, Progress(), folder / "weights")
    return checkpoint, coded, tuned


def divergence(model, checkpoint: Checkpoint, weights: dict[str, CodedWeight]) -> float:
    """Mean KL(model || model with these weights) over all tokens of the samples, in nats."""
    other = deepcopy(model)
    for name, coded in weights.items():
        _, layer, block, projection = name.split(".")
        block = {"attention": "self_attn", "feed_forward": "mlp"}[block]
        values = coded.values()[:, :, 0, 0]
        if projection == "q_proj" and not checkpoint.config.qk_norm:
            values = values / checkpoint.config.attention_scale
        other.get_submodule(f"model.layers.{layer}.{block}.{projection}").weight.copy_(values)
    total = 0.0
    with torch.no_grad():
        for sample in SAMPLES:
            p, q = (each(torch.tensor([sample])).logits[0].double().log_softmax(1) for each in (model, other))
            total += float((p.exp() * (p - q)).sum())
    return total / sum(map(len, SAMPLES))


def same(some: dict[str, CodedWeight], others: dict[str, CodedWeight]) -> bool:
    """Whether scales are equal to the bit."""
    return some.keys() == others.keys() and all(torch.equal(some[name].scales, others[name].scales) for name in some)


def test_the_decoder_is_nearer_to_the_float_model_on_the_calibration_data(model, found):
    checkpoint, coded, tuned = found
    before, after = divergence(model, checkpoint, coded), divergence(model, checkpoint, tuned)
    assert after < 0.9 * before


def test_codes_stay_and_so_do_the_proportions_of_blocks_and_what_has_no_codes(found):
    _, coded, tuned = found
    assert (
        tuned.keys()
        == coded.keys()
        == {f"layers.{i}.{name}" for i in range(3) for name in LAYER_PROJECTIONS} - {"layers.1.attention.v_proj"}
    )
    for name, weight in tuned.items():
        assert torch.equal(weight.codes, coded[name].codes)
        factors = (weight.scales / coded[name].scales).flatten(1)
        torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-5, atol=0)
        assert (factors > 0).all()
        assert factors.std() > 0
    assert tuned["layers.0.attention.q_proj"].scales.dtype == torch.float32


def test_a_second_descent_gives_the_same_to_the_bit(found, tmp_path):
    checkpoint, coded, tuned = found
    assert same(tuned_scales(checkpoint, SAMPLES, coded, PASSES, Progress(), tmp_path), tuned)


def test_a_descent_that_was_killed_goes_on_where_it_was(found, tmp_path, monkeypatch):
    checkpoint, coded, _ = found
    monkeypatch.setattr(scale_tuning, "STEP_TOKENS", 10)  # two steps a pass
    whole = tuned_scales(checkpoint, SAMPLES, coded, PASSES, Progress(), tmp_path / "whole")

    class Killed(Progress):
        def steps(self, items, name, *args, **kwargs):
            for number, item in enumerate(super().steps(items, name, *args, **kwargs)):
                if name == "scales" and number == 3:
                    raise KeyboardInterrupt
                yield item

    with pytest.raises(KeyboardInterrupt):
        tuned_scales(checkpoint, SAMPLES, coded, PASSES, Killed(), tmp_path / "killed")
    resumed = tuned_scales(checkpoint, SAMPLES, coded, PASSES, Progress(tmp_path / "log"), tmp_path / "killed")
    assert same(resumed, whole)
    assert f"3 of {2 * PASSES} steps found" in (tmp_path / "log").read_text()
    assert "step 3 of 6: KL" not in (tmp_path / "log").read_text()


def test_steps_of_another_descent_are_not_used_and_go(found, tmp_path):
    checkpoint, coded, tuned = found
    once = tuned_scales(checkpoint, SAMPLES, coded, 1, Progress(), tmp_path)
    files = set(tmp_path.iterdir())
    assert same(tuned_scales(checkpoint, SAMPLES, coded, PASSES, Progress(), tmp_path), tuned)
    assert not same(once, tuned)
    assert len(files) == len(set(tmp_path.iterdir())) == 2  # with its manifest
    assert not files & set(tmp_path.iterdir())


def test_outputs_that_are_no_numbers_are_refused(found, tmp_path):
    checkpoint, coded, _ = found
    name = "layers.2.feed_forward.up_proj"
    broken = coded | {name: CodedWeight(coded[name].scales * torch.inf, coded[name].codes)}
    with pytest.raises(HexportError, match="scales: outputs are not finite on the calibration data; check"):
        tuned_scales(checkpoint, SAMPLES, broken, 1, Progress(), tmp_path)
