"""This module computes rotary embeddings (arXiv 2104.09864) in the half-split layout of Hugging Face checkpoints."""

import math

import torch
from torch import nn

from hexport.decoder.rope_scaling import Linear, Llama3, LongRope, Rope

TABLES = ("cos", "sin", "minus_sin")


def rope_tables(rope: Rope, context_len: int) -> tuple[torch.Tensor, ...]:
    """Return cos, sin and -sin of every position, each float32 (context_len, dims / 2)."""
    angles = torch.outer(torch.arange(context_len, dtype=torch.float32), frequencies(rope, context_len))
    cos, sin = angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor
    return cos, sin, -sin


def frequencies(rope: Rope, context_len: int) -> torch.Tensor:
    """Return by how many radians each pair of dimensions turns per position, float32 (dims / 2,)."""
    plain = rope.theta ** -(torch.arange(0, rope.dims, 2, dtype=torch.int64).float() / rope.dims)
    match rope.scaling:
        case None:
            return plain
        case Linear(factor):
            return plain / factor
        case Llama3():
            return _llama3(plain, rope.scaling)
        case LongRope(short, long, original):
            return plain / torch.tensor(long if context_len > original else short)


def _llama3(plain: torch.Tensor, scaling: Llama3) -> torch.Tensor:
    """Scale the frequencies as Meta's reference code for Llama 3.1 does (apply_scaling in llama-models)."""
    turns = scaling.original_context_len * plain / (2 * math.pi)  # of each pair of dimensions in the original context
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = smooth.clamp(0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor


class Rotary(nn.Module):
    """This module rotates queries or keys.

    It is a module so that its quantisation points carry the name of its place: `layers.3.attention.q_rope.mul` is a
    product in the rotation of layer 3's queries. It adds products with -sin, because the HTP's subtraction rounds a few
    results differently at different AR lengths, and its addition does not.
    """

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, minus_sin: torch.Tensor) -> torch.Tensor:
        """Return x (1, heads, AR, head_dim) with its first dims dimensions rotated; the others pass unchanged.

        cos, sin and minus_sin are (1, 1, AR, dims / 2).
        """
        half = cos.shape[-1]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        rotated = [a * cos + b * minus_sin, a * sin + b * cos]
        return torch.cat(rotated if 2 * half == x.shape[-1] else [*rotated, rest], dim=-1)
