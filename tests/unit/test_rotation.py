"""R1: the same function in another basis of the hidden states."""

import numpy as np
import pytest
import torch
from float_graph import whole_sequence
from small_models import MODELS, random_tokens, transformers_logits

from hexport.decoder.rotation import rotation
from hexport.decoder.weights import Checkpoint, load_decoder, load_prologue
from hexport.errors import HexportError

GEMMA3 = [name for name in MODELS if name.startswith("gemma3")]


@pytest.mark.parametrize("n", [1, 2, 48, 576, 3072])
def test_the_rotation_is_orthogonal_and_flat(n):
    matrix = rotation(n)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n), atol=1e-5, rtol=0)
    assert matrix.abs().max() <= (2 / n) ** 0.5 + 1e-6


@pytest.mark.parametrize("name", [name for name in MODELS if name not in GEMMA3])
def test_a_rotated_decoder_equals_transformers(small_model, name):
    model, folder = small_model(name)
    tokens = random_tokens(model.config.vocab_size, 13)
    checkpoint = Checkpoint(folder, rotated=True)
    logits = whole_sequence(load_decoder(checkpoint, 16), checkpoint.config, tokens)
    np.testing.assert_allclose(logits, transformers_logits(model, tokens), atol=2e-4, rtol=0)


def test_one_large_channel_is_spread_over_all(small_model):
    _, folder = small_model(next(iter(MODELS)))
    plain, rotated = (load_prologue(Checkpoint(folder, rotated=r), 16).embedding.weight for r in (False, True))
    with torch.no_grad():
        spike = torch.zeros(plain.shape[1])
        spike[5] = 1000.0
        assert (spike @ rotation(len(spike))).abs().max() < 1000 * (2 / len(spike)) ** 0.5 + 1e-3
        assert not torch.allclose(plain, rotated)
        torch.testing.assert_close(plain.norm(dim=1), rotated.norm(dim=1))


@pytest.mark.parametrize("name", GEMMA3[:1])
def test_norms_behind_the_projections_are_refused(small_model, name):
    _, folder = small_model(name)
    with pytest.raises(HexportError, match=r"config\.json: r1 rotates .*; set r1: false in the recipe"):
        Checkpoint(folder, rotated=True)
