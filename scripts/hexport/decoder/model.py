"""The static-shape decoder: a prologue, N layers and an epilogue, with the KV cache as inputs and outputs.

Every linear map is a 1x1 convolution, the form in which the HTP runs it fastest and in which the QNN pass that splits
attention into single heads recognises it. The AR length is never written into a shape (it is always the -1), so that
a graph exported at one length also runs on the CPU at any other.

The attention scale is folded into the query projection (see `weights.py`), which saves one op per head and token.
"""

import torch
from torch import nn

from hexport.decoder.config import DecoderConfig
from hexport.decoder.rope import Rotary, rope_table


class Conv(nn.Conv2d):
    """A linear map without bias on (1, channels, 1, AR)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, kernel_size=1, bias=False)


def to_channels(x: torch.Tensor) -> torch.Tensor:
    """(1, AR, channels) -> (1, channels, 1, AR)"""
    return x.reshape(1, -1, 1, x.shape[-1]).transpose(1, 3)


def repeat_heads(cache: torch.Tensor, n_heads: int, shape: tuple[int, int]) -> torch.Tensor:
    """Repeat each KV head for its group of query heads: (1, n_kv, *shape) -> (1, n_heads, *shape)"""
    groups = n_heads // cache.shape[1]
    if groups == 1:
        return cache
    return cache.unsqueeze(2).expand(-1, -1, groups, -1, -1).reshape(1, n_heads, *shape)


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.q_proj = Conv(config.hidden_size, config.n_heads * config.head_dim)
        self.k_proj = Conv(config.hidden_size, config.n_kv_heads * config.head_dim)
        self.v_proj = Conv(config.hidden_size, config.n_kv_heads * config.head_dim)
        self.q_rope, self.k_rope = Rotary(), Rotary()
        self.o_proj = Conv(config.n_heads * config.head_dim, config.hidden_size)

    def heads(self, projected: torch.Tensor, n: int) -> torch.Tensor:
        """(1, n * head_dim, 1, AR) -> (1, n, AR, head_dim)"""
        return projected.permute(0, 3, 1, 2).squeeze(-1).view(1, -1, n, self.head_dim).transpose(1, 2)

    def forward(self, x, cos, sin, mask, k_cache, v_cache):
        """x (1, AR, hidden), k_cache (1, n_kv, head_dim, CL-AR), v_cache (1, n_kv, CL-AR, head_dim)"""
        x = to_channels(x)
        q = self.q_rope(self.heads(self.q_proj(x), self.n_heads), cos, sin)
        k = self.k_rope(self.heads(self.k_proj(x), self.n_kv_heads), cos, sin).transpose(2, 3)
        v = self.heads(self.v_proj(x), self.n_kv_heads)

        keys = repeat_heads(torch.cat([k_cache, k], dim=3), self.n_heads, (self.head_dim, -1))
        values = repeat_heads(torch.cat([v_cache, v], dim=2), self.n_heads, (-1, self.head_dim))
        weights = torch.softmax(q @ keys + mask, dim=-1)
        y = (weights @ values).transpose(1, 2)
        y = self.o_proj(y.reshape(1, -1, 1, self.n_heads * self.head_dim).transpose(1, 3))
        return y.transpose(1, 3).reshape(1, -1, self.o_proj.out_channels), k, v


class FeedForward(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate_proj = Conv(config.hidden_size, config.intermediate_size)
        self.up_proj = Conv(config.hidden_size, config.intermediate_size)
        self.down_proj = Conv(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        x = to_channels(x)
        y = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y.transpose(1, 3).reshape(1, -1, self.down_proj.out_channels)


class Layer(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.input_norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config)
        self.post_attention_norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden, rope_cos, rope_sin, atten_mask, k_cache, v_cache):
        """Return hidden (1, AR, hidden), the new k (1, n_kv, head_dim, AR) and the new v (1, n_kv, AR, head_dim)."""
        attended, k, v = self.attention(self.input_norm(hidden), rope_cos, rope_sin, atten_mask, k_cache, v_cache)
        hidden = hidden + attended
        return hidden + self.feed_forward(self.post_attention_norm(hidden)), k, v


class Prologue(nn.Module):
    """Token ids and positions -> hidden states and the rotary angles of these positions."""

    def __init__(self, config: DecoderConfig, context_len: int):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.set_rope_table(config, context_len)

    def set_rope_table(self, config: DecoderConfig, context_len: int) -> None:
        cos, sin = rope_table(config.head_dim, config.rope_theta, context_len)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens, input_pos):
        """tokens, input_pos int32 (1, AR) -> hidden (1, AR, hidden), cos and sin (1, 1, AR, head_dim / 2)"""
        return self.embedding(tokens), self.cos[input_pos].unsqueeze(1), self.sin[input_pos].unsqueeze(1)


class Epilogue(nn.Module):
    """Hidden states -> logits."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.output = Conv(config.hidden_size, config.vocab_size)

    def forward(self, hidden):
        """hidden (1, AR, hidden) -> logits (1, AR, vocab)"""
        logits = self.output(to_channels(self.norm(hidden)))
        return logits.transpose(1, 3).reshape(1, -1, self.output.out_channels)


class Decoder(nn.Module):
    """The whole model, as one graph."""

    def __init__(self, config: DecoderConfig, context_len: int):
        super().__init__()
        self.prologue = Prologue(config, context_len)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.epilogue = Epilogue(config)

    def forward(self, tokens, atten_mask, input_pos, *caches):
        """caches: k of every layer, then v of every layer. Returns logits, new k of every layer, new v of every layer.

        This order of inputs and outputs is the one that the ExecuTorch QNN llama runner expects.
        """
        n = len(self.layers)
        hidden, cos, sin = self.prologue(tokens, input_pos)
        new_k, new_v = [], []
        for layer, k_cache, v_cache in zip(self.layers, caches[:n], caches[n:], strict=True):
            hidden, k, v = layer(hidden, cos, sin, atten_mask, k_cache, v_cache)
            new_k.append(k)
            new_v.append(v)
        return self.epilogue(hidden), *new_k, *new_v


def empty_cache(config: DecoderConfig, cache_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 zeros for one layer: k (1, n_kv, head_dim, cache_len) and v (1, n_kv, cache_len, head_dim)."""
    n, dim = config.n_kv_heads, config.head_dim
    return torch.zeros(1, n, dim, cache_len), torch.zeros(1, n, cache_len, dim)


def empty_caches(config: DecoderConfig, cache_len: int) -> list[torch.Tensor]:
    """Float32 zeros: k of every layer, then v of every layer. Distinct tensors: torch.export merges equal inputs."""
    layers = [empty_cache(config, cache_len) for _ in range(config.n_layers)]
    return [k for k, _ in layers] + [v for _, v in layers]
