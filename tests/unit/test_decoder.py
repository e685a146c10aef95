"""Decoders of the llama family against transformers, in float32, at any sizes and in any dtype of the file."""

import json

import numpy as np
import pytest
import torch
from float_graph import FloatGraph, block_by_block, whole_sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import random_tokens, transformers_logits
from whole_decoder import causal_mask, empty_caches, load_decoder

from hexport.decoder.weights import Checkpoint

CONTEXT = 16
# Each differs from the base of `tiny_llama` (3 query heads per KV head, heads wider than the hidden size, untied head)
# in one feature; with it ignored, logits differ by far more than the tolerance.
CONFIGS = {
    "grouped queries": {},
    "one KV head": {"num_key_value_heads": 1},
    "a KV head per query head": {"num_key_value_heads": 6},
    "heads as wide as the hidden size": {"head_dim": None},
    "tied head": {"tie_word_embeddings": True},
    "large theta": {"rope_theta": 500000.0},
    "large epsilon": {"rms_norm_eps": 0.3},
    "one layer": {"num_hidden_layers": 1},
}


@pytest.fixture
def saved(tiny_llama, tmp_path):
    """`saved(**config changes)`: a transformers model and a checkpoint of it."""

    def build(**changes):
        model = tiny_llama(**changes)
        model.save_pretrained(tmp_path)
        return model, Checkpoint(tmp_path)

    return build


def whole(checkpoint: Checkpoint, tokens: list[int]) -> np.ndarray:
    return whole_sequence(load_decoder(checkpoint, CONTEXT), checkpoint.config, tokens)


def blocks(checkpoint: Checkpoint, tokens: list[int], ar_len: int) -> np.ndarray:
    return block_by_block(FloatGraph.of(checkpoint, ar_len, CONTEXT), tokens)


def tokens_of(model, length: int) -> list[int]:
    return random_tokens(model.config.vocab_size, length)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_logits_of_a_whole_sequence_equal_transformers(saved, changes):
    model, checkpoint = saved(**changes)
    tokens = tokens_of(model, 12)
    expected = transformers_logits(model, tokens)
    assert expected.std() > 1
    np.testing.assert_allclose(whole(checkpoint, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ar_len", [1, 4])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_logits_through_the_cache_equal_transformers(saved, changes, ar_len):
    model, checkpoint = saved(**changes)
    tokens = tokens_of(model, 11)
    result = blocks(checkpoint, tokens, ar_len)
    np.testing.assert_allclose(result, transformers_logits(model, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ar_len", [1, 4])
def test_every_position_of_the_context_can_be_read(saved, ar_len):
    model, checkpoint = saved()
    tokens = tokens_of(model, CONTEXT)
    result = blocks(checkpoint, tokens, ar_len)
    np.testing.assert_allclose(result, transformers_logits(model, tokens), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_logits_equal_transformers_for_any_sizes(folder, data):
    from transformers import LlamaConfig, LlamaForCausalLM

    kv_heads = data.draw(st.integers(1, 4), "num_key_value_heads")
    heads = kv_heads * data.draw(st.integers(1, 4), "query heads per KV head")
    config = LlamaConfig(
        num_key_value_heads=kv_heads,
        num_attention_heads=heads,
        head_dim=2 * data.draw(st.integers(1, 12), "head_dim / 2"),
        hidden_size=heads * data.draw(st.integers(1, 8), "hidden_size / heads"),
        intermediate_size=data.draw(st.integers(1, 50), "intermediate_size"),
        num_hidden_layers=data.draw(st.integers(1, 3), "num_hidden_layers"),
        vocab_size=data.draw(st.integers(2, 50), "vocab_size"),
        tie_word_embeddings=data.draw(st.booleans(), "tie_word_embeddings"),
        rope_theta=data.draw(st.floats(2, 1e6), "rope_theta"),
        rms_norm_eps=data.draw(st.floats(1e-6, 1e-1), "rms_norm_eps"),
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    model.save_pretrained(folder)
    largest_ar_len = 5
    # The last block is padded, and its positions must still be positions of the context.
    tokens = tokens_of(model, data.draw(st.integers(1, CONTEXT - largest_ar_len + 1), "tokens"))
    checkpoint = Checkpoint(folder)
    expected = transformers_logits(model, tokens)
    np.testing.assert_allclose(whole(checkpoint, tokens), expected, atol=1e-4, rtol=1e-4)
    ar_len = data.draw(st.integers(1, largest_ar_len), "AR length")
    np.testing.assert_allclose(blocks(checkpoint, tokens, ar_len), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["rope_theta", "rope_parameters", "rope_parameters alone", "default"])
def test_theta_is_read_in_every_spelling(saved, tmp_path, spelling):
    theta = 10000.0 if spelling == "default" else 300.0
    model, _ = saved(rope_theta=theta)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("rope_")}
    parameters = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    config |= {
        "rope_theta": {"rope_theta": theta, "rope_scaling": None},  # transformers 4
        "rope_parameters": {**parameters, "rope_theta": 10000.0},  # transformers 5; its own spelling wins
        "rope_parameters alone": parameters,
        "default": {},
    }[spelling]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = tokens_of(model, 12)
    result = whole(Checkpoint(tmp_path), tokens)
    np.testing.assert_allclose(result, transformers_logits(model, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_computed_in_float32(saved, tmp_path, dtype):
    from transformers import LlamaForCausalLM

    saved()[0].to(dtype).save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = tokens_of(model, 12)
    result = whole(Checkpoint(tmp_path), tokens)
    np.testing.assert_allclose(result, transformers_logits(model, tokens), atol=1e-4, rtol=0)


def test_a_masked_slot_has_no_influence_and_an_attended_one_has(saved):
    _, checkpoint = saved()
    decoder = load_decoder(checkpoint, CONTEXT)
    ids, positions = torch.tensor([[5]], dtype=torch.int32), torch.tensor([[3]], dtype=torch.int32)
    caches = [torch.randn_like(cache) for cache in empty_caches(checkpoint.config, CONTEXT - 1)]
    mask = causal_mask(1, CONTEXT, n_past=3)

    def logits():
        with torch.no_grad():
            return decoder(ids, (mask,), positions, *caches)[0]

    before = logits()
    n = len(caches) // 2
    for k, v in zip(caches[:n], caches[n:], strict=True):
        k[..., 3] += 5
        v[:, :, 3] += 5
    assert torch.equal(logits(), before)
    caches[n][:, :, 2] += 1
    assert not torch.allclose(logits(), before, atol=1e-2)
