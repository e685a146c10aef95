"""This module sums x xᵀ over the inputs x of projections, while calibration samples pass the decoder layer by layer."""

from collections.abc import Iterable

import torch

from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.model import UncachedLayer, rope_of, to_channels
from hexport.decoder.stream import State, state_of
from hexport.decoder.weights import Checkpoint
from hexport.progress import Progress
from hexport.quantization.vocabulary import prologue_of

# These projections read what another one reads, so its products serve them too.
SAME_INPUT = {
    "attention.k_proj": "attention.q_proj",
    "attention.v_proj": "attention.q_proj",
    "feed_forward.up_proj": "feed_forward.gate_proj",
}


def states_of(checkpoint: Checkpoint, samples: list[list[int]], progress: Progress, part: str) -> list[State]:
    """Return the states of the samples before the first layer. `part` names this work in the progress."""
    prologue, samples = prologue_of(checkpoint, samples, progress, part)
    return [state_of(prologue, sample, checkpoint.config.sliding_window) for sample in samples]


def pass_layer(layer: UncachedLayer, kind: LayerKind, states: list[State]) -> list[torch.Tensor]:
    """Return the hidden states, float32 (1, n, hidden_size), of each sample behind a layer; leave `states` alone."""
    return [layer(state.hidden, state.masks[kind.sliding], *rope_of(kind, state.ropes))[0] for state in states]


def observe_layer(
    layer: UncachedLayer, kind: LayerKind, states: list[State], projections: Iterable[str]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Return what `pass_layer` does, and the sums of x xᵀ, float32 (in, in), over the inputs of these projections."""
    products: dict[str, torch.Tensor] = {}
    sources = {name: SAME_INPUT.get(name, name) for name in projections}
    hooks = [
        layer.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: _add(products, name, *inputs))
        for name in set(sources.values())
    ]
    hidden = pass_layer(layer, kind, states)
    for hook in hooks:
        hook.remove()
    return hidden, {name: products[source] for name, source in sources.items()}


def head_products(norm: torch.nn.Module, states: list[State]) -> torch.Tensor:
    """Return the sum of x xᵀ, float32 (hidden_size, hidden_size), over what the output projection reads.

    `norm` is the epilogue's, and the states are those behind the last layer.
    """
    products: dict[str, torch.Tensor] = {}
    for state in states:
        _add(products, "", to_channels(norm(state.hidden)))
    return products[""]


def _add(products: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    """Add x xᵀ of x (1, in, 1, tokens) to the sum of this name."""
    x = x.flatten(2).squeeze(0)
    products[name] = torch.addmm(products[name], x, x.T) if name in products else x @ x.T
