"""SQNR, KL divergence and agreement, against their formulas in float64."""

import json

import numpy as np
import pytest
import torch

from hexport.evaluation.comparison import Comparison, SignalToNoise


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("hexport.evaluation.comparison.CHUNK", 100)


def logits(rows: int = 37, vocab: int = 23) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.normal(0, 3, (rows, vocab)).astype(np.float32)
    return reference, reference + random.normal(0, 0.4, (rows, vocab)).astype(np.float32)


def test_figures_are_those_of_the_formulas():
    reference, other = logits()
    comparison = Comparison()
    for rows in (slice(0, 20), slice(20, 37)):
        comparison.add(reference[rows], torch.from_numpy(other[rows]))
    p, q = (
        np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (reference, other)
    )
    noise = ((reference.astype(np.float64) - other) ** 2).sum()
    figures = comparison.as_json()
    assert figures["sqnr_db"] == pytest.approx(10 * np.log10((reference.astype(np.float64) ** 2).sum() / noise))
    assert figures["kl_divergence"] == pytest.approx((p * np.log(p / q)).sum(1).mean())
    agreement = (reference.argmax(1) == other.argmax(1)).mean()
    assert figures["top1_agreement"] == pytest.approx(agreement)
    assert 0 < agreement < 1


def test_equal_logits_have_no_noise():
    reference, _ = logits()
    comparison = Comparison()
    comparison.add(reference, reference.copy())
    assert comparison.as_json() == {"sqnr_db": None, "kl_divergence": 0.0, "top1_agreement": 1.0}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_figures_that_are_no_numbers_are_null(value):
    reference, other = logits()
    other[3, 5] = value
    comparison = Comparison()
    comparison.add(reference, other)
    figures = comparison.as_json()
    json.dumps(figures, allow_nan=False)
    assert figures["sqnr_db"] is None
    assert figures["kl_divergence"] is None


def test_nothing_compared_is_null():
    assert set(Comparison().as_json().values()) == {None}


def test_rows_of_other_shapes_are_refused():
    reference, other = logits()
    with pytest.raises(ValueError, match="shapes"):
        Comparison().add(reference, other[:-1])


def test_hidden_states_of_any_shape_and_size():
    reference, other = (torch.from_numpy(x).reshape(1, 37, 23) for x in logits())
    noise = SignalToNoise()
    noise.add(reference, other)
    noise.add(2 * reference, 2 * other)
    expected = 10 * torch.log10(reference.double().square().sum() / (reference.double() - other).square().sum())
    assert noise.db == pytest.approx(float(expected))
