"""Observers of activations: the range that each gives for known values, over several samples."""

import pytest
import torch

from hexport.quantization.annotation import OBSERVERS
from hexport.quantization.prepared import PreparedGraph, reset

pytestmark = pytest.mark.usefixtures("qnn_sdk")

OUTLIER = 100.0


def observer(name: str, bits: int = 8):
    return OBSERVERS[name](dtype=torch.int32, quant_min=0, quant_max=2**bits - 1, qscheme=torch.per_tensor_affine)


def limits(name: str, *samples: torch.Tensor, bits: int = 8) -> tuple[float, float]:
    observing = observer(name, bits)
    for sample in samples:
        observing(sample)
    return float(observing.min_val), float(observing.max_val)


def squared_error(name: str, values: torch.Tensor, bits: int) -> float:
    observing = observer(name, bits)
    observing(values)
    scale, zero_point = observing.calculate_qparams()
    coded = torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), 0, 2**bits - 1)
    return float((coded - values).square().sum())


@pytest.fixture
def values() -> torch.Tensor:
    """20,001 values between -1 and 2, and one far away from them."""
    spread = torch.linspace(-1, 2, 20_001)
    return torch.cat([spread, torch.tensor([OUTLIER])]).reshape(1, 2, -1)


def test_min_max_takes_all_values(values):
    assert limits("min_max", values) == (-1.0, OUTLIER)


def test_percentile_ignores_one_outlier(values):
    low, high = limits("percentile", values)
    assert -1 <= low < -0.99
    assert 1.99 < high <= 2


def test_percentile_takes_all_values_of_a_small_sample():
    assert limits("percentile", torch.tensor([3.0, -5.0, 0.5])) == (-5.0, 3.0)


def test_mse_leaves_out_an_outlier_that_costs_the_others_more():
    torch.manual_seed(0)
    many = torch.cat([torch.randn(20_000), torch.tensor([30.0])])
    assert limits("mse", many, bits=4)[1] < 10
    assert limits("mse", many[-20:], bits=4)[1] == 30


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_mse_is_no_worse_than_min_max(bits, seed):
    torch.manual_seed(seed)
    heavy_tails = torch.distributions.StudentT(3.0).sample((4000,)) + seed
    found, of_min_max = (squared_error(name, heavy_tails, bits) for name in ("mse", "min_max"))
    assert found <= of_min_max * 1.001
    assert bits == 8 or found < 0.9 * of_min_max


@pytest.mark.parametrize("name", ["min_max", "percentile", "mse"])
def test_the_widest_range_of_all_samples_counts_in_any_order(name):
    torch.manual_seed(0)
    samples = [torch.rand(500) - 0.5, torch.rand(500) * 4, torch.rand(500) * -3, torch.zeros(1)]
    low, high = limits(name, *samples)
    assert limits(name, *samples[::-1]) == (low, high)
    alone = [limits(name, sample) for sample in samples]
    assert (low, high) == (min(pair[0] for pair in alone), max(pair[1] for pair in alone))


def test_a_moving_average_follows_the_samples():
    low, high = limits("moving_average", torch.tensor([-1.0, 1.0]), torch.tensor([-3.0, 3.0]))
    assert -3 < low < -1
    assert 1 < high < 3


@pytest.mark.parametrize("name", OBSERVERS)
def test_what_was_observed_can_be_forgotten(name):
    observing = observer(name)
    observing(torch.tensor([-50.0, 70.0]))
    reset(PreparedGraph(None, {"point": observing}, {}, []))
    observing(torch.tensor([-1.0, 2.0]))
    assert (float(observing.min_val), float(observing.max_val)) == (-1.0, 2.0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_values_pass_unchanged(name, values):
    assert observer(name)(values) is values
