"""Massive channels of hidden states in copies: the same function, and codes that reach less far."""

import math

import numpy as np
import pytest
import torch
from float_graph import whole_sequence
from small_models import MODELS, random_tokens, transformers_logits
from whole_decoder import load_decoder

from hexport.decoder.basis import Basis
from hexport.decoder.weights import Checkpoint
from hexport.decoder.widening import Widening
from hexport.errors import HexportError

GEMMA3 = [name for name in MODELS if name.startswith("gemma3")]


@pytest.mark.parametrize("name", GEMMA3)
def test_a_wider_decoder_equals_transformers(small_model, name):
    model, folder = small_model(name)
    tokens = random_tokens(model.config.vocab_size, 13)
    checkpoint = Checkpoint(folder, Basis(r2=True, widen=32))
    assert checkpoint.config.hidden_size == model.config.hidden_size + 32
    logits = whole_sequence(load_decoder(checkpoint, 16), checkpoint.config, tokens)
    np.testing.assert_allclose(logits, transformers_logits(model, tokens), atol=2e-4, rtol=0)


def test_channels_that_reach_farther_than_others_are_shared_out_to_copies():
    far = torch.tensor([3.0, 900.0, 4.0, 500.0, 5.0])
    widening = Widening.of(far, 20)
    assert torch.bincount(widening.channels).tolist() == [1, 11, 1, 11, 1]
    hidden = torch.tensor([1.0, -70.0, 2.0, 30.0, -3.0])
    wide = hidden[widening.channels] * widening.written
    assert float(wide.abs().max()) == pytest.approx(70 * math.sqrt(25 / 5 / 11))
    torch.testing.assert_close(wide.square().mean(), hidden.square().mean())
    torch.testing.assert_close((wide * widening.read)[:5], hidden)
    assert not (wide * widening.read)[5:].any()


def test_families_whose_hidden_states_can_be_rotated_are_refused(small_model):
    _, folder = small_model(next(iter(MODELS)))
    with pytest.raises(HexportError, match=r"config\.json: widen copies .* llama has no such norms; set widen: 0"):
        Checkpoint(folder, Basis(widen=32))
