"""This module is the decoder with static shapes: a prologue, N layers and an epilogue.

The KV cache is among the inputs and outputs. Every linear map is a 1x1 convolution: the HTP runs this form fastest, and
the QNN pass that splits attention into single heads recognises it. No shape holds the AR length (it is always the -1),
so a graph exported at one length also runs on the CPU at any other.

Constant factors are folded into the weights (see `weights.py`): the attention scale, that of the embedding, and the
offset of norms.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from hexport.decoder.config import DecoderConfig
from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.masks import ATTEND
from hexport.decoder.rope import TABLES, Rotary, rope_tables
from hexport.decoder.rotation import rotation

T = TypeVar("T")
HIDDEN_BELOW = 20.0  # e^-20 of the smallest weight is nothing, and 16 bits need not reach down to the mask's -255


class Conv(nn.Conv2d):
    """A Conv is a linear map on (1, channels, 1, AR), as a 1x1 convolution."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False):
        super().__init__(n_in, n_out, kernel_size=1, bias=bias)

    def of_rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same map of (…, channels), as a product of matrices."""
        return F.linear(x, self.weight[:, :, 0, 0], self.bias)


def to_channels(x: torch.Tensor) -> torch.Tensor:
    """Return x (1, AR, channels) as (1, channels, 1, AR)."""
    return x.reshape(1, -1, 1, x.shape[-1]).transpose(1, 3)


def repeat_heads(cache: torch.Tensor, n_heads: int, shape: tuple[int, int]) -> torch.Tensor:
    """Repeat each KV head for its group of query heads: return (1, n_kv, *shape) as (1, n_heads, *shape)."""
    groups = n_heads // cache.shape[1]
    if groups == 1:
        return cache
    return cache.unsqueeze(2).expand(-1, -1, groups, -1, -1).reshape(1, n_heads, *shape)


class HeadRotation(nn.Module):
    """This is R3 of SpinQuant (arXiv 2405.16406), for keys of 8 bits.

    It turns the queries and keys of each head behind their rotary embedding. Outliers are spread over the dimensions of
    a head, and products stay as they are. It is a plain matrix product: QNN 2.49 fails on its own Hadamard op in graphs
    of more than one token whose attention is split into heads.
    """

    def __init__(self, head_dim: int):
        super().__init__()
        self.register_buffer("matrix", rotation(head_dim), persistent=False)

    def forward(self, x):
        return x @ self.matrix


class Attention(nn.Module):
    """This is attention with grouped query heads (GQA), over the KV cache and the tokens of the current call."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        q, kv, biases = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, config.biases
        self.q_proj = Conv(config.hidden_size, q, "q_proj" in biases)
        self.k_proj = Conv(config.hidden_size, kv, "k_proj" in biases)
        self.v_proj = Conv(config.hidden_size, kv, "v_proj" in biases)
        self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.q_rope, self.k_rope = Rotary(), Rotary()
        self.r3 = HeadRotation(config.head_dim) if config.r3 else nn.Identity()
        self.masked_softmax = config.masked_softmax
        self.o_proj = Conv(q, config.hidden_size, "o_proj" in biases)

    def heads(self, projected: torch.Tensor, n: int) -> torch.Tensor:
        """Return projections (1, n * head_dim, 1, AR) as heads (1, n, AR, head_dim)."""
        return projected.permute(0, 3, 1, 2).squeeze(-1).view(1, -1, n, self.head_dim).transpose(1, 2)

    def forward(self, x, mask, k_cache, v_cache, *rope):
        """Return the output (1, AR, hidden_size), new k (1, n_kv, head_dim, AR) and new v (1, n_kv, AR, head_dim).

        x is (1, AR, hidden_size), k_cache (1, n_kv, head_dim, CL-AR), v_cache (1, n_kv, CL-AR, head_dim). A cache may
        be None.
        """
        x = to_channels(x)
        q = self.q_norm(self.heads(self.q_proj(x), self.n_heads))
        k = self.k_norm(self.heads(self.k_proj(x), self.n_kv_heads))
        v = self.heads(self.v_proj(x), self.n_kv_heads)
        if rope:
            q, k = self.q_rope(q, *rope), self.k_rope(k, *rope)
        q, k = self.r3(q), self.r3(k)
        k = k.transpose(2, 3)

        keys = torch.cat([k] if k_cache is None else [k_cache, k], dim=3)
        values = torch.cat([v] if v_cache is None else [v_cache, v], dim=2)
        keys = repeat_heads(keys, self.n_heads, (self.head_dim, -1))
        values = repeat_heads(values, self.n_heads, (-1, self.head_dim))
        scores = q @ keys
        if self.masked_softmax:
            scores = torch.where(mask == ATTEND, scores, scores.amin(dim=-1, keepdim=True) - HIDDEN_BELOW)
        else:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1)
        y = (weights @ values).transpose(1, 2)
        y = self.o_proj(y.reshape(1, -1, 1, self.n_heads * self.head_dim).transpose(1, 3))
        return y.transpose(1, 3).reshape(1, -1, self.o_proj.out_channels), k, v


class GeluTanh(nn.Module):
    """This is GELU (arXiv 1606.08415) in its approximation 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    It is written as x sigmoid(2 ...). In 16 bits, that is about eight times as precise as the HTP's own GELU, which
    computes the exact function besides.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = 2 * math.sqrt(2 / math.pi)
        return x * torch.sigmoid(x * (x * x * (0.044715 * scale) + scale))


ACTIVATIONS = {"silu": nn.SiLU(), "gelu_tanh": GeluTanh()}


class FeedForward(nn.Module):
    """This is the gated feed-forward: down_proj(activation(gate_proj(x)) * up_proj(x)), on x (1, AR, hidden_size)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.activation, biases = ACTIVATIONS[config.activation], config.biases
        self.gate_proj = Conv(config.hidden_size, config.intermediate_size, "gate_proj" in biases)
        self.up_proj = Conv(config.hidden_size, config.intermediate_size, "up_proj" in biases)
        self.down_proj = Conv(config.intermediate_size, config.hidden_size, "down_proj" in biases)

    def forward(self, x):
        x = to_channels(x)
        y = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return y.transpose(1, 3).reshape(1, -1, self.down_proj.out_channels)


class Layer(nn.Module):
    """A layer is attention and feed-forward, each behind a norm and added to the hidden states."""

    def __init__(self, config: DecoderConfig):
        super().__init__()

        def norm(present: bool = True) -> nn.Module:
            return nn.RMSNorm(config.hidden_size, config.norm_eps) if present else nn.Identity()

        self.input_norm = norm()
        self.attention = Attention(config)
        self.post_attention_norm = norm(config.sandwich_norms)
        self.pre_feed_forward_norm = norm()
        self.feed_forward = FeedForward(config)
        self.post_feed_forward_norm = norm(config.sandwich_norms)

    def forward(self, hidden, atten_mask, k_cache, v_cache, *rope):
        """Return hidden (1, AR, hidden_size), the new k (1, n_kv, head_dim, AR) and the new v (1, n_kv, AR, head_dim).

        `rope` are cos, sin and -sin of the positions, (1, 1, AR, dims / 2), in layers that rotate, and nothing in
        others.
        """
        attended, k, v = self.attention(self.input_norm(hidden), atten_mask, k_cache, v_cache, *rope)
        hidden = hidden + self.post_attention_norm(attended)
        return hidden + self.post_feed_forward_norm(self.feed_forward(self.pre_feed_forward_norm(hidden))), k, v


class UncachedLayer(Layer):
    """This is a layer of a graph that reads the whole context in one call, without caches as inputs."""

    def forward(self, hidden, atten_mask, *rope):
        return super().forward(hidden, atten_mask, None, None, *rope)


class Prologue(nn.Module):
    """The prologue turns token ids and positions into hidden states and the rotary angles of these positions.

    With row scales, the rows of the table reach from -1 to 1 at most, so that 8 bits code each as well as they can, and
    what was looked up is multiplied by its row's scale. A table with several encodings would not do: the HTP looks up
    nothing in one. The product has four dimensions, (1, AR, 1, hidden_size). With three, the HTP multiplied row r by
    the scale of row r mod 32, with AR 128, 576 channels and 16,384 rows or more.
    """

    def __init__(self, config: DecoderConfig, context_len: int):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.row_scale = nn.Embedding(config.vocab_size, 1) if config.row_scales else None
        self.set_rope_tables(config, context_len)

    def set_rope_tables(self, config: DecoderConfig, context_len: int) -> None:
        """Register cos, sin and -sin of all positions of the context as buffers, for each of the config's ropes."""
        self.n_ropes = len(config.ropes)
        for i, rope in enumerate(config.ropes):
            for name, table in zip(TABLES, rope_tables(rope, context_len), strict=True):
                self.register_buffer(f"{name}_{i}", table, persistent=False)

    def forward(self, tokens, input_pos):
        """Return hidden (1, AR, hidden_size) and, for each rope, cos, sin and -sin (1, 1, AR, dims / 2).

        `tokens` and `input_pos` are int32 (1, AR).
        """
        tables = [getattr(self, f"{name}_{i}") for i in range(self.n_ropes) for name in TABLES]
        if self.row_scale is None:
            hidden = self.embedding(tokens)
        else:
            rows = tokens.unsqueeze(2)
            hidden = (self.embedding(rows) * self.row_scale(rows)).squeeze(2)
        return hidden, *(table[input_pos].unsqueeze(1) for table in tables)


class Epilogue(nn.Module):
    """The epilogue turns hidden states into logits."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.output = Conv(config.hidden_size, config.vocab_size)

    def forward(self, hidden):
        """Return logits (1, AR, vocab_size) of hidden (1, AR, hidden_size)."""
        logits = self.output(to_channels(self.norm(hidden)))
        return logits.transpose(1, 3).reshape(1, -1, self.output.out_channels)


def rope_of(kind: LayerKind, ropes: Sequence[T]) -> Sequence[T]:
    """Return what a layer of this kind needs of the tables of all ropes: those of one rope, or none."""
    return () if kind.rope is None else ropes[len(TABLES) * kind.rope : len(TABLES) * (kind.rope + 1)]


def empty_cache(config: DecoderConfig, cache_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 zeros for one layer: k (1, n_kv, head_dim, cache_len) and v (1, n_kv, cache_len, head_dim)."""
    n, dim = config.n_kv_heads, config.head_dim
    return torch.zeros(1, n, dim, cache_len), torch.zeros(1, n, cache_len, dim)
