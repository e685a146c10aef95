"""Hidden states in more channels than they were published with, so that massive ones do not coarsen the codes of all.

Some channels of a model hold values a hundred times as large as the others, in every token (arXiv 2402.17762). A
rotation (`rotation.py`) would spread them, but does not pass the norms that Gemma 3 has behind attention and
feed-forward, whose weights differ from channel to channel. Copies of one channel have one weight: a channel that is m
times there, each time 1 / sqrt(m) of it, passes any norm, and the codes need to reach 1 / sqrt(m) as far. The mean
square stays what it was with all channels times sqrt(wide / published), so eps does too. What reads hidden states reads
of a channel its first copy; what the norm puts out for the others is 0.

The function stays the same, and the program has not an op more. Its weights grow with the channels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hexport.decoder.config import DecoderConfig
from hexport.decoder.rotation import READERS, WRITERS, Parameters
from hexport.errors import HexportError

CHANNELS, MOST_CHANNELS = 32, 1024  # that `widen` is a multiple of, and that it may be at most
SCALING_NORMS = ("post_attention_norm", "post_feed_forward_norm")


def check_widening(config: DecoderConfig, where: str) -> None:
    """Raise HexportError where hidden states need no such copies."""
    if not config.sandwich_norms:
        raise HexportError(
            f"{where}: widen copies channels of hidden states that norms behind attention and feed-forward scale, and "
            f"{config.family} has no such norms; set widen: 0 in the recipe"
        )


def is_widened(config: DecoderConfig, hidden_size: int) -> bool:
    """Whether hidden states of this size may be the published ones with copies, as a recipe's `widen` makes them."""
    more = hidden_size - config.hidden_size
    return config.sandwich_norms and 0 < more <= MOST_CHANNELS and more % CHANNELS == 0


@dataclass(frozen=True)
class Widening:
    """Of n published channels, and more channels behind them.

    channels: int64 (wide,), the published channel that each of them holds; the first n hold themselves.
    written: float32 (wide,), by what a value of the published channel is multiplied. read: float32 (wide,), by what
    the sum of squares stays the same and the first copy is the whole channel again; 0 for the other copies.
    """

    channels: torch.Tensor
    written: torch.Tensor
    read: torch.Tensor

    @classmethod
    def of(cls, reach: torch.Tensor, more: int) -> "Widening":
        """`more` channels, in equal parts for those that reach (n,) at least half as far as the farthest one."""
        n, massive = len(reach), (reach >= reach.max() / 2).nonzero()[:, 0]
        channels = torch.cat([torch.arange(n), massive.repeat(more)[:more]])
        copies = torch.bincount(channels, minlength=n)[channels]
        written = math.sqrt((n + more) / n) / copies.sqrt()
        read = 1 / written
        read[n:] = 0
        return cls(channels, written, read)

    def prologue(self, parameters: Parameters) -> Parameters:
        return {**parameters, "embedding.weight": parameters["embedding.weight"][:, self.channels] * self.written}

    def layer(self, parameters: Parameters) -> Parameters:
        wide = dict(parameters)
        for norm, projections in READERS.items():
            self._read(wide, f"{norm}.weight", [f"{name}.weight" for name in projections])
        for norm in SCALING_NORMS:
            wide[f"{norm}.weight"] = parameters[f"{norm}.weight"][self.channels]
        for name in WRITERS:
            wide[f"{name}.weight"] = parameters[f"{name}.weight"][self.channels] * self.written[:, None, None, None]
            if (bias := parameters.get(f"{name}.bias")) is not None:
                wide[f"{name}.bias"] = bias[self.channels] * self.written
        return wide

    def epilogue(self, parameters: Parameters) -> Parameters:
        wide = dict(parameters)
        self._read(wide, "norm.weight", ["output.weight"])
        return wide

    def _read(self, parameters: Parameters, norm: str, projections: list[str]) -> None:
        n = len(parameters[norm])
        parameters[norm] = parameters[norm][self.channels] * self.read
        for name in projections:
            weight = parameters[name]
            more = weight.new_zeros(len(weight), len(self.channels) - n, 1, 1)
            parameters[name] = torch.cat([weight, more], dim=1)


def reach(layers: Iterable[Parameters]) -> torch.Tensor:
    """How far the norms behind attention and feed-forward let each channel of hidden states (n,) grow, over layers."""
    return torch.stack([layer[f"{norm}.weight"].abs() for layer in layers for norm in SCALING_NORMS]).sum(dim=0)
