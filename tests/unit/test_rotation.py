"""R1 and R2: the same function in other bases."""

import numpy as np
import pytest
import torch
from float_graph import whole_sequence
from small_models import MODELS, random_tokens, transformers_logits
from whole_decoder import load_decoder

from hexport.decoder.basis import Basis
from hexport.decoder.rotation import rotation
from hexport.decoder.weights import Checkpoint, load_prologue
from hexport.errors import HexportError

GEMMA3 = [name for name in MODELS if name.startswith("gemma3")]


@pytest.mark.parametrize("n", [1, 2, 48, 576, 3072])
def test_the_rotation_is_orthogonal_and_flat(n):
    matrix = rotation(n)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n), atol=1e-5, rtol=0)
    assert matrix.abs().max() <= (2 / n) ** 0.5 + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_a_rotated_decoder_equals_transformers(small_model, name):
    model, folder = small_model(name)
    tokens = random_tokens(model.config.vocab_size, 13)
    checkpoint = Checkpoint(folder, Basis(r1=name not in GEMMA3, r2=True))
    logits = whole_sequence(load_decoder(checkpoint, 16), checkpoint.config, tokens)
    np.testing.assert_allclose(logits, transformers_logits(model, tokens), atol=2e-4, rtol=0)


def test_one_large_channel_is_spread_over_all(small_model):
    _, folder = small_model(next(iter(MODELS)))
    plain, rotated = (load_prologue(Checkpoint(folder, Basis(r1)), 16).embedding.weight for r1 in (False, True))
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
        Checkpoint(folder, Basis(r1=True))


@pytest.mark.parametrize("name", [name for name in MODELS if "biases" in name][:2])
def test_r2_turns_the_values_of_each_kv_head(small_model, name):
    """What is cached has the length that it had, and one large value lies on all dimensions of its head."""
    _, folder = small_model(name)
    plain, turned = (Checkpoint(folder, Basis(r2=r2)) for r2 in (False, True))
    n, head_dim = plain.config.n_kv_heads, plain.config.head_dim
    x = torch.eye(plain.config.hidden_size)[:5]
    values = []
    for checkpoint in (plain, turned):
        parameters = checkpoint.layer_parameters(0)
        weight, bias = parameters["attention.v_proj.weight"][:, :, 0, 0], parameters["attention.v_proj.bias"]
        values.append((x @ weight.T + bias).reshape(-1, n, head_dim))
    torch.testing.assert_close(values[1], values[0] @ rotation(head_dim))
    torch.testing.assert_close(values[1].norm(dim=-1), values[0].norm(dim=-1))
    assert not torch.allclose(values[0], values[1])
