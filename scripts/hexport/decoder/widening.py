"""This module copies massive channels of hidden states, so that they do not coarsen the codes of all channels.

Some channels of a model hold values a hundred times as large as the others, in every token (arXiv 2402.17762). A
rotation (`rotation.py`) would spread them, but it does not pass the norms that Gemma 3 has behind attention and
feed-forward, whose weights differ from channel to channel. Copies of one channel have one weight: a channel that is
there m times, each time as 1 / sqrt(m) of it, passes any norm, and the codes need to reach only 1 / sqrt(m) as far.

All channels are also multiplied by sqrt(wide / published), so that the mean square stays what it was, and with it eps.
What reads hidden states reads the first copy of a channel. For the other copies, the norm puts out 0.

The function stays the same, and the program gets no further op. Its weights grow with the channels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hexport.decoder.config import DecoderConfig
from hexport.decoder.rotation import READERS, WRITERS, Parameters
from hexport.errors import HexportError

CHANNELS, MOST_CHANNELS = 32, 1024  # `widen` is a multiple of the one, and at most the other
SCALING_NORMS = ("post_attention_norm", "post_feed_forward_norm")


def check_widening(config: DecoderConfig, where: str) -> None:
    """Check that a model has norms that need such copies. Raises HexportError, which begins with `where`, if not."""
    if not config.sandwich_norms:
        raise HexportError(
            f"{where}: widen copies channels of hidden states that norms behind attention and feed-forward scale, and "
            f"{config.family} has no such norms; set widen: 0 in the recipe"
        )


def is_widened(config: DecoderConfig, hidden_size: int) -> bool:
    """Return whether hidden states of this size may be the published ones with copies, made by a recipe's `widen`."""
    more = hidden_size - config.hidden_size
    return config.sandwich_norms and 0 < more <= MOST_CHANNELS and more % CHANNELS == 0


@dataclass(frozen=True)
class Widening:
    """A widening says which of n published channels stand in the wide hidden states, and by what they are multiplied.

    channels: int64 (wide,), the published channel that each wide channel holds; the first n hold themselves
    written: float32 (wide,), by what a value of the published channel is multiplied when it is written
    read: float32 (wide,), by what a norm's weight is multiplied, so that the first copy is the whole channel again;
        0 for the other copies
    """

    channels: torch.Tensor
    written: torch.Tensor
    read: torch.Tensor

    @classmethod
    def of(cls, reach: torch.Tensor, more: int) -> "Widening":
        """Return a widening by `more` channels.

        `reach` (n,) is how far each published channel grows. Those that reach at least half as far as the farthest one
        share the added channels in equal parts.
        """
        n, massive = len(reach), (reach >= reach.max() / 2).nonzero()[:, 0]
        channels = torch.cat([torch.arange(n), massive.repeat(more)[:more]])
        copies = torch.bincount(channels, minlength=n)[channels]
        written = math.sqrt((n + more) / n) / copies.sqrt()
        read = 1 / written
        read[n:] = 0
        return cls(channels, written, read)

    def prologue(self, parameters: Parameters) -> Parameters:
        """Return the prologue's parameters for wide hidden states."""
        return {**parameters, "embedding.weight": parameters["embedding.weight"][:, self.channels] * self.written}

    def layer(self, parameters: Parameters) -> Parameters:
        """Return a layer's parameters for wide hidden states."""
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
        """Return the epilogue's parameters for wide hidden states."""
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
    """Return how far the norms behind attention and feed-forward let each channel grow, added over layers: (n,)."""
    return torch.stack([layer[f"{norm}.weight"].abs() for layer in layers for norm in SCALING_NORMS]).sum(dim=0)
