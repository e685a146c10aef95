"""Weight encodings: the codes, scales and values of one projection, as the HTP holds them."""

import pytest
import torch

from hexport.config.recipes import resolve_recipes
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.prepared import prepare
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.weights import channel_scales, codes, fake_quantised, weight_encoding

pytestmark = pytest.mark.usefixtures("qnn_sdk")

N_OUT, N_IN = 24, 128
FORMS = {
    "8 bits per channel": {"weight_bits": 8},
    "8 bits per tensor": {"weight_bits": 8, "granularity": "per_tensor"},
    "4 bits per channel": {"weight_bits": 4},
    "4 bits per tensor": {"weight_bits": 4, "granularity": "per_tensor"},
    "4 bits in blocks of 16": {"weight_bits": 4, "granularity": "per_block", "block_size": 16},
    "4 bits in blocks of 64": {"weight_bits": 4, "granularity": "per_block", "block_size": 64},
}
BLOCKS = {name: form["block_size"] for name, form in FORMS.items() if "block_size" in form}


class Projection(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Conv2d(N_IN, N_OUT, 1, bias=False)

    def forward(self, x):
        return self.q_proj(x)


@pytest.fixture(scope="module")
def observers() -> dict:
    """The observer that executorch's quantiser gives the weight of a projection, by form."""
    base = resolve_recipes({})["16a8w"]
    inputs = (torch.zeros(1, N_IN, 1, 4),)
    return {
        name: next(iter(prepare(Projection(), inputs, recipe_from(base | form, "r"), "0").weights.values()))
        for name, form in FORMS.items()
    }


@pytest.fixture
def weight() -> torch.Tensor:
    """Random, with channels of unlike ranges, an outlier in each third channel, and one channel of zeros."""
    torch.manual_seed(0)
    weight = torch.randn(N_OUT, N_IN, 1, 1) * torch.linspace(0.2, 3, N_OUT).reshape(-1, 1, 1, 1)
    weight[::3, 7] *= 12
    weight[5] = 0
    return weight


def per_value(scales: torch.Tensor) -> torch.Tensor:
    """Scales (out,) or (out, blocks, 1, 1), one for each value of the weight."""
    rows = scales.reshape(N_OUT, -1)
    return rows.repeat_interleave(N_IN // rows.shape[1], dim=1).reshape(N_OUT, N_IN, 1, 1)


def error(observer, weight: torch.Tensor) -> float:
    return float((fake_quantised(observer, weight) - weight).square().sum())


@pytest.mark.parametrize("form", FORMS)
def test_codes_times_scales_are_the_values_that_are_evaluated(observers, weight, form):
    scales, zero_points = weight_encoding(observers[form], weight)
    found = codes(observers[form], weight, scales, zero_points)
    assert found.dtype == torch.int8
    assert not zero_points.any()
    torch.testing.assert_close(found * per_value(scales), fake_quantised(observers[form], weight), rtol=1e-6, atol=0)
    largest = 2 ** (FORMS[form]["weight_bits"] - 1) - 1
    assert int(found.abs().max()) <= largest + (form in BLOCKS)
    assert int(found.abs().max()) >= largest


@pytest.mark.parametrize("form", FORMS)
def test_values_are_off_by_half_a_step_at_most(observers, weight, form):
    scales, _ = weight_encoding(observers[form], weight)
    off = (fake_quantised(observers[form], weight) - weight).abs() / per_value(scales)
    # A block whose scale lies below its range is clipped, where the rest of it gains from that.
    assert float((off > 0.501).float().mean()) < (0.05 if form in BLOCKS else 1e-9)


@pytest.mark.parametrize("form", BLOCKS)
def test_scales_of_blocks_are_what_the_block_wise_expansion_of_qnn_holds(observers, weight, form):
    """An integer of 1 to 16 for each block, times one float32 scale per channel."""
    scales, _ = weight_encoding(observers[form], weight)
    assert scales.shape == (N_OUT, N_IN // BLOCKS[form], 1, 1)
    units = channel_scales(observers[form], scales)
    assert (units.shape, units.dtype) == ((N_OUT,), torch.float32)
    multiples = scales.reshape(N_OUT, -1) / units[:, None]
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-4)
    assert int(multiples.round().min()) >= 1
    assert int(multiples.round().max()) == 16
    assert len(multiples.round().unique()) > 4


@pytest.mark.parametrize("bits", [8, 4])
def test_one_scale_per_tensor_or_one_per_channel(observers, weight, bits):
    of_tensor, _ = weight_encoding(observers[f"{bits} bits per tensor"], weight)
    of_channels, _ = weight_encoding(observers[f"{bits} bits per channel"], weight)
    assert of_tensor.shape == of_channels.shape == (N_OUT,)
    assert len(of_tensor.unique()) == 1
    assert len(of_channels.unique()) == N_OUT
    torch.testing.assert_close(of_tensor[0], weight.abs().max() / (2 ** (bits - 1) - 1), rtol=0.2, atol=0)


def test_finer_scales_lose_less(observers, weight):
    losses = [
        error(observers[form], weight)
        for form in (
            "4 bits in blocks of 16",
            "4 bits in blocks of 64",
            "4 bits per channel",
            "4 bits per tensor",
        )
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.7 * losses[2] < 0.7 * losses[3]
    assert error(observers["8 bits per channel"], weight) < error(observers["8 bits per tensor"], weight)
    assert error(observers["8 bits per channel"], weight) < losses[0] / 10


@pytest.mark.parametrize("form", ["8 bits per channel", "4 bits per channel", *BLOCKS])
def test_ratios_narrow_the_range_of_their_channel_alone(observers, weight, form):
    ratios = torch.ones(N_OUT)
    ratios[3] = 0.5
    plain, _ = weight_encoding(observers[form], weight)
    narrowed, _ = weight_encoding(observers[form], weight, ratios)
    of_channel = channel_scales(observers[form], narrowed) / channel_scales(observers[form], plain)
    torch.testing.assert_close(of_channel, ratios, rtol=1e-5, atol=0)
    limit = fake_quantised(observers[form], weight, CodedWeight(narrowed)).reshape(N_OUT, -1).abs().amax(dim=1)
    full = fake_quantised(observers[form], weight).reshape(N_OUT, -1).abs().amax(dim=1)
    assert limit[3] < 0.6 * full[3]
    assert torch.equal(limit[4:], full[4:])


@pytest.mark.parametrize("form", FORMS)
def test_an_observer_forgets_the_weight_before(observers, weight, form):
    expected = fake_quantised(observers[form], weight / 100)
    fake_quantised(observers[form], weight * 100)
    assert torch.equal(fake_quantised(observers[form], weight / 100), expected)


def test_a_weight_is_not_changed_by_being_encoded(observers, weight):
    before = weight.clone()
    for observer in observers.values():
        fake_quantised(observer, weight)
        weight_encoding(observer, weight, torch.full((N_OUT,), 0.7))
    assert torch.equal(weight, before)
