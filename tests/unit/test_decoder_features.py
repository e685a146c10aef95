"""Each feature of a family matters: with it alone ignored, logits are far from those of transformers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from float_graph import whole_sequence
from safetensors.torch import load_file, save_file
from small_models import ORIGINAL_CONTEXT, random_tokens, transformers_logits
from torch import nn
from whole_decoder import Decoder, load_decoder

from hexport.decoder.config import DecoderConfig
from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.rope_scaling import Linear, Rope
from hexport.decoder.weights import Checkpoint

Change = Callable[[DecoderConfig], DecoderConfig]

LLAMA_LLAMA3, LLAMA_BIASES = "llama, llama3 scaling", "llama, all biases, linear scaling"
LLAMA_LONGROPE = "llama, one KV head, gelu, longrope"
GEMMA, GEMMA_BIASES = "gemma, one KV head", "gemma, biases, untied, linear scaling"
GEMMA3_LISTED = "gemma3, listed layers slide, full layers scaled"
GEMMA3_BIASES, GEMMA3_ONE = "gemma3, every third layer full, biases, untied", "gemma3, window of one token"
GEMMA3_WIDE = "gemma3, window as wide as the longest context"
PHI3_PARTIAL, PHI3_WINDOW = (
    "phi3, longrope on three quarters of a head",
    "phi3, longrope with an attention factor, window, tied",
)
PHI3_HALF = "phi3, half of a head rotated, endless window"
QWEN2, QWEN2_UPPER = "qwen2, seven queries per KV head, window switched off", "qwen2, upper layers slide"
QWEN2_LISTED = "qwen2, listed layers slide, llama3 scaling"
QWEN3, QWEN3_UPPER = "qwen3, biases", "qwen3, upper layers slide, tied"
SMOLLM3, SMOLLM3_WINDOW = "smollm3, listed layers without rope, all biases", "smollm3, layers without rope slide"
SMOLLM3_LISTED = "smollm3, listed layers slide, llama3 scaling"

ONE_OF_EACH_FAMILY = [LLAMA_BIASES, GEMMA, GEMMA3_LISTED, PHI3_WINDOW, QWEN2, QWEN3, SMOLLM3]
QKV, QKVO = ["q_proj", "k_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_PROJECTIONS = [*QKVO, "gate_proj", "up_proj", "down_proj"]
BIASES = {
    LLAMA_BIASES: ALL_PROJECTIONS,
    GEMMA_BIASES: QKVO,
    GEMMA3_BIASES: QKVO,
    QWEN2: QKV,
    QWEN3: QKVO,
    SMOLLM3: ALL_PROJECTIONS,
}
WINDOWS = [
    GEMMA3_LISTED,
    GEMMA3_BIASES,
    GEMMA3_ONE,
    PHI3_WINDOW,
    QWEN2_UPPER,
    QWEN2_LISTED,
    QWEN3_UPPER,
    SMOLLM3_WINDOW,
    SMOLLM3_LISTED,
]
UNROTATED_LAYERS = [SMOLLM3, SMOLLM3_WINDOW, SMOLLM3_LISTED]
THETAS = [LLAMA_BIASES, LLAMA_LONGROPE, GEMMA_BIASES, PHI3_WINDOW, PHI3_HALF, QWEN2, QWEN3_UPPER, SMOLLM3]
SCALINGS = [LLAMA_BIASES, GEMMA_BIASES, GEMMA3_LISTED, QWEN3_UPPER]
LLAMA3_SCALINGS = [LLAMA_LLAMA3, QWEN2_LISTED, SMOLLM3_LISTED]
LONGROPES = [LLAMA_LONGROPE, PHI3_PARTIAL, PHI3_WINDOW]


def setting(**values) -> Change:
    return lambda config: replace(config, **values)


def without_bias(projection: str) -> Change:
    return lambda config: replace(config, biases=config.biases - {projection})


def layers(change: Callable[[LayerKind], LayerKind]) -> Change:
    return lambda config: replace(config, layers=tuple(map(change, config.layers)))


def ropes(change: Callable[[Rope], Rope]) -> Change:
    return lambda config: replace(config, ropes=tuple(map(change, config.ropes)))


def rope(i: int, **values) -> Change:
    def change(config):
        changed = replace(config.ropes[i], **values)
        return replace(config, ropes=(*config.ropes[:i], changed, *config.ropes[i + 1 :]))

    return change


def scaling(**values) -> Change:
    return ropes(lambda rope: replace(rope, scaling=replace(rope.scaling, **values)))


def long_and_short_swapped(rope: Rope) -> Rope:
    long, short = rope.scaling.long_factor, rope.scaling.short_factor
    return replace(rope, scaling=replace(rope.scaling, long_factor=short, short_factor=long))


# (model, what is ignored, how)
IGNORED: list[tuple[str, str, Change]] = [
    *((model, f"bias of {name}", without_bias(name)) for model, names in BIASES.items() for name in names),
    *((model, "norm epsilon", setting(norm_eps=1e-6)) for model in ONE_OF_EACH_FAMILY),
    *((model, "1 + w in norms", setting(norm_offset=0.0)) for model in (GEMMA, GEMMA3_LISTED)),
    *((model, "embedding multiplier", setting(embedding_scale=1.0)) for model in (GEMMA, GEMMA3_LISTED)),
    *((model, "GeGLU", setting(activation="silu")) for model in (GEMMA, GEMMA3_LISTED, LLAMA_LONGROPE)),
    *((model, "SwiGLU", setting(activation="gelu_tanh")) for model in (LLAMA_BIASES, PHI3_HALF, QWEN2, QWEN3, SMOLLM3)),
    *((model, "qk-norm", setting(qk_norm=False)) for model in (QWEN3, GEMMA3_LISTED)),
    (GEMMA3_LISTED, "query_pre_attn_scalar", setting(attention_scale=24**-0.5)),
    *((model, "untied head", setting(tied_head=True)) for model in (LLAMA_LLAMA3, GEMMA_BIASES, PHI3_HALF, QWEN3)),
    *((model, "window", layers(lambda kind: replace(kind, sliding=False))) for model in WINDOWS),
    *(
        (model, "last token of the window", lambda c: replace(c, sliding_window=c.sliding_window + 1))
        for model in WINDOWS
    ),
    *((model, "which layers slide", layers(lambda kind: replace(kind, sliding=not kind.sliding))) for model in WINDOWS),
    *((model, "layers without rope", layers(lambda kind: replace(kind, rope=0))) for model in UNROTATED_LAYERS),
    *(
        (model, "which layers rotate", layers(lambda kind: replace(kind, rope=0 if kind.rope is None else None)))
        for model in UNROTATED_LAYERS
    ),
    *((model, "theta", ropes(lambda rope: replace(rope, theta=10000.0))) for model in THETAS),
    (GEMMA3_LISTED, "theta of full layers", rope(0, theta=1e6)),
    (GEMMA3_LISTED, "theta of sliding layers", rope(1, theta=10000.0)),
    (GEMMA3_WIDE, "theta of sliding layers under a window that hides nothing", rope(0, theta=1e6)),
    (GEMMA3_LISTED, "which theta is whose", lambda config: replace(config, ropes=config.ropes[::-1])),
    *((model, "scaling", ropes(lambda rope: replace(rope, scaling=None))) for model in SCALINGS + LLAMA3_SCALINGS),
    (GEMMA3_LISTED, "that sliding layers are not scaled", rope(1, scaling=Linear(8.0))),
    *(
        (model, "that llama3 scaling keeps short wavelengths", ropes(lambda rope: replace(rope, scaling=Linear(8.0))))
        for model in LLAMA3_SCALINGS
    ),
    *((model, "llama3 factor", scaling(factor=32.0)) for model in LLAMA3_SCALINGS),
    *((model, "llama3 low_freq_factor", scaling(low_freq_factor=3.0)) for model in LLAMA3_SCALINGS),
    *((model, "llama3 high_freq_factor", scaling(high_freq_factor=1.5)) for model in LLAMA3_SCALINGS),
    *((model, "llama3 original context", scaling(original_context_len=8192)) for model in LLAMA3_SCALINGS),
    *((model, "long divisors", ropes(long_and_short_swapped)) for model in LONGROPES),
    *((model, "original context", scaling(original_context_len=64)) for model in LONGROPES),
    *((model, "attention factor", scaling(attention_factor=1.0)) for model in LONGROPES),
    *((model, "partial rotary", ropes(lambda rope: replace(rope, dims=8))) for model in (PHI3_HALF,)),
]


def distance(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(logits - expected).max())


def compared(small_model, name: str, n: int = 37) -> tuple[Checkpoint, list[int], np.ndarray]:
    """The model's checkpoint, tokens, and what transformers makes of them."""
    model, folder = small_model(name)
    tokens = random_tokens(model.config.vocab_size, n)
    return Checkpoint(folder), tokens, transformers_logits(model, tokens)


def logits_of(checkpoint: Checkpoint, tokens: list[int], context_len: int = 40) -> np.ndarray:
    return whole_sequence(load_decoder(checkpoint, context_len), checkpoint.config, tokens)


@pytest.mark.parametrize(("name", "ignore"), [(m, f) for m, _, f in IGNORED], ids=[f"{m}: {f}" for m, f, _ in IGNORED])
def test_a_feature_that_is_ignored_changes_the_logits(small_model, name, ignore):
    checkpoint, tokens, expected = compared(small_model, name)
    assert distance(logits_of(checkpoint, tokens), expected) < 1e-4
    checkpoint.config = ignore(checkpoint.config)
    assert distance(logits_of(checkpoint, tokens), expected) > 1e-2


@pytest.mark.parametrize("name", LONGROPES)
def test_short_divisors_that_are_ignored_change_the_logits(small_model, name):
    checkpoint, tokens, expected = compared(small_model, name, n=13)
    assert distance(logits_of(checkpoint, tokens, ORIGINAL_CONTEXT), expected) < 1e-4
    assert distance(logits_of(checkpoint, tokens, ORIGINAL_CONTEXT + 1), expected) > 1e-2


def without_norms(name: str) -> Callable[[Decoder], None]:
    def change(decoder):
        for layer in decoder.layers:
            setattr(layer, name, nn.Identity())

    return change


def heads_dealt_out_in_turn(decoder: Decoder) -> None:
    """Query head h reads KV head h % n_kv, in place of h // (n / n_kv)."""
    for layer in decoder.layers:
        attention = layer.attention
        n, dim = attention.n_heads, attention.head_dim
        order = torch.arange(n).view(attention.n_kv_heads, -1).T.flatten()
        queries = attention.q_proj.weight.view(n, dim, -1)
        outputs = attention.o_proj.weight.view(-1, n, dim)
        attention.q_proj.weight = nn.Parameter(queries[order.argsort()].reshape(attention.q_proj.weight.shape))
        attention.o_proj.weight = nn.Parameter(outputs[:, order.argsort()].reshape(attention.o_proj.weight.shape))


@pytest.mark.parametrize(
    ("name", "ignore"),
    [
        (GEMMA3_LISTED, without_norms("post_attention_norm")),
        (GEMMA3_LISTED, without_norms("post_feed_forward_norm")),
        (LLAMA_LLAMA3, heads_dealt_out_in_turn),
    ],
    ids=["norm after attention", "norm after feed-forward", "which queries share keys"],
)
def test_a_part_of_the_layers_that_is_ignored_changes_the_logits(small_model, name, ignore):
    checkpoint, tokens, expected = compared(small_model, name)
    decoder = load_decoder(checkpoint, 40)
    assert distance(whole_sequence(decoder, checkpoint.config, tokens), expected) < 1e-4
    ignore(decoder)
    assert distance(whole_sequence(decoder, checkpoint.config, tokens), expected) > 1e-2


@pytest.mark.parametrize("name", [GEMMA, GEMMA3_LISTED, LLAMA_LONGROPE])
def test_gelu_is_the_tanh_approximation(small_model, name):
    """It is never more than 5e-4 from the exact function, hence the nearer bound."""
    checkpoint, tokens, expected = compared(small_model, name)
    decoder = load_decoder(checkpoint, 40)
    for layer in decoder.layers:
        layer.feed_forward.activation = nn.GELU()
    assert distance(whole_sequence(decoder, checkpoint.config, tokens), expected) > 1e-3


@pytest.mark.parametrize("name", [LLAMA_BIASES, GEMMA, GEMMA3_LISTED, PHI3_WINDOW, QWEN2, QWEN3_UPPER, SMOLLM3])
def test_a_tied_head_is_the_embedding_though_the_file_has_another(small_model, tmp_path, name):
    checkpoint, tokens, expected = compared(small_model, name)
    tensors = load_file(checkpoint.path)
    stray = torch.randn(tensors["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(2))
    checkpoint.path = tmp_path / "model.safetensors"
    save_file({**tensors, "lm_head.weight": stray}, checkpoint.path)
    assert distance(logits_of(checkpoint, tokens), expected) < 1e-4
    checkpoint.config = replace(checkpoint.config, tied_head=False)
    assert distance(logits_of(checkpoint, tokens), expected) > 1e-2
