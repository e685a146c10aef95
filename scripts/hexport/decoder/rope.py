"""Rotary position embeddings (arXiv 2104.09864) in the half-split layout of Hugging Face checkpoints."""

import torch
from torch import nn


def rope_table(head_dim: int, theta: float, n_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin, float32 (n_positions, head_dim / 2)."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


class Rotary(nn.Module):
    """Rotates queries or keys. A module, so that its quantisation points carry the name of its place."""

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (1, heads, AR, head_dim), cos and sin (1, 1, AR, head_dim / 2)"""
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
