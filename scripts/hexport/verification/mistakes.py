"""This module makes the mistakes that exports make, each as a float decoder that makes it.

Quantisation hides subtle mistakes from any threshold. But what a mistake does to logits is known: it is the difference
of two float decoders. `projection.py` asks whether a program's error goes in that direction.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from hexport.decoder.config import DecoderConfig
from hexport.decoder.device import device
from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.matrix_products import layer_by_products
from hexport.decoder.model import Layer
from hexport.decoder.rope_scaling import Linear, Llama3, LongRope, Rope
from hexport.decoder.stream import State
from hexport.decoder.weights import Checkpoint, with_parameters

Parameters = dict[str, torch.Tensor]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Change:
    """A change is what a mistake changes of a decoder; by default, nothing.

    source: the layer whose weights stand in a place. parameters: those of the layer in a place, changed. activation:
    the feed-forward's, where another one is taken. ahead: as `layer_by_products` takes it.
    """

    config: DecoderConfig
    source: Callable[[int], int] = lambda i: i
    parameters: Callable[[int, Parameters], Parameters] = lambda i, parameters: parameters
    activation: nn.Module | None = None
    ahead: int = 0


@dataclass(frozen=True)
class Mistake:
    """A mistake has a name, and `looks`, which ends the sentence "it looks as if". change: the change of a decoder, or
    None where that decoder cannot make the mistake.
    """

    name: str
    looks: str
    change: Callable[[DecoderConfig], Change | None]


class MistakenDecoder(FloatDecoder):
    """This float decoder makes the mistake of a change."""

    def __init__(self, checkpoint: Checkpoint, context_len: int, change: Change):
        changed = copy.copy(checkpoint)
        changed.config = change.config
        super().__init__(changed, context_len)
        self.change = change

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        """Return layer `i` with the change; it is called with a state and returns the next hidden states."""
        change = self.change
        with torch.device("meta"):
            layer = Layer(change.config)
        parameters = change.parameters(i, self.checkpoint.layer_parameters(change.source(i)))
        layer = with_parameters(layer, parameters).to(device())
        if change.activation is not None:
            layer.feed_forward.activation = change.activation
        return lambda state: layer_by_products(layer, change.config, i, state.hidden, state, change.ahead)


def mistakes_of(config: DecoderConfig) -> list[Mistake]:
    """Return the mistakes that a program of this decoder can make."""
    return [mistake for mistake in MISTAKES if mistake.change(config) is not None]


def _everywhere(change: Callable[[DecoderConfig, Parameters], Parameters]) -> Callable[[DecoderConfig], Change]:
    """Return a change of every layer's parameters."""
    return lambda config: Change(config, parameters=lambda i, parameters: change(config, parameters))


def _if(holds: Callable[[DecoderConfig], bool], **values: object) -> Callable[[DecoderConfig], Change | None]:
    """Return a change to other values in the config, where it makes a difference."""

    def change(config: DecoderConfig) -> Change | None:
        return Change(replace(config, **values)) if holds(config) else None

    return change


def _ropes(change: Callable[[Rope], Rope]) -> Callable[[DecoderConfig], Change | None]:
    def changed(config: DecoderConfig) -> Change | None:
        ropes = tuple(map(change, config.ropes))
        return None if ropes == config.ropes else Change(replace(config, ropes=ropes))

    return changed


def _scaled_otherwise(rope: Rope) -> Rope:
    if not isinstance(rope.scaling, Llama3 | Linear):
        return rope
    return replace(rope, scaling=replace(rope.scaling, factor=32.0 if rope.scaling.factor == 8 else 8.0))


def _divided_otherwise(rope: Rope) -> Rope:
    if not isinstance(rope.scaling, LongRope):
        return rope
    scaling = rope.scaling
    return replace(rope, scaling=replace(scaling, short_factor=scaling.long_factor, long_factor=scaling.short_factor))


def _without_amplitude(rope: Rope) -> Rope:
    if not isinstance(rope.scaling, LongRope):
        return rope
    return replace(rope, scaling=replace(rope.scaling, attention_factor=1.0))


def _of_other_kind(config: DecoderConfig) -> Change | None:
    if len(config.ropes) != 2:
        return None
    layers = tuple(kind if kind.rope is None else replace(kind, rope=1 - kind.rope) for kind in config.layers)
    return Change(replace(config, layers=layers))


def _no_rotation(config: DecoderConfig) -> Change | None:
    return Change(replace(config, layers=tuple(replace(kind, rope=None) for kind in config.layers)))


def _no_window(config: DecoderConfig) -> Change | None:
    if config.sliding_window is None:
        return None
    return Change(replace(config, layers=tuple(replace(kind, sliding=False) for kind in config.layers)))


def _other_activation(activation: str, instead: nn.Module) -> Callable[[DecoderConfig], Change | None]:
    return lambda config: Change(config, activation=instead) if config.activation == activation else None


def _seeing(ahead: int) -> Callable[[DecoderConfig], Change]:
    return lambda config: Change(config, ahead=ahead)


def _k_for_v(config: DecoderConfig, parameters: Parameters) -> Parameters:
    k, v = ("attention.k_proj", "attention.v_proj")
    names = {name: name.replace(k, v) if k in name else name.replace(v, k) for name in parameters}
    return {name: parameters[other] for name, other in names.items()}


def _in_pairs(config: DecoderConfig, parameters: Parameters) -> Parameters:
    """Return queries and keys with the rows of Meta's layout, in which neighbours are rotated together."""
    order = torch.arange(config.head_dim).view(-1, 2).t().flatten()
    return {
        name: _of_heads(tensor, config)[:, order].reshape(tensor.shape)
        if name.startswith(("attention.q_proj", "attention.k_proj"))
        else tensor
        for name, tensor in parameters.items()
    }


def _of_heads(tensor: torch.Tensor, config: DecoderConfig) -> torch.Tensor:
    return tensor.reshape(-1, config.head_dim, *tensor.shape[1:])


def _dealt_in_turn(config: DecoderConfig) -> Change | None:
    """Let query head h take KV head h % n_kv_heads in place of h // group."""
    n, kv = config.n_heads, config.n_kv_heads
    if kv in (1, n):
        return None
    order = torch.arange(n).view(n // kv, kv).t().flatten()

    def changed(i: int, parameters: Parameters) -> Parameters:
        found = dict(parameters)
        for name in (name for name in found if name.startswith("attention.q_proj")):
            found[name] = _of_heads(found[name], config)[order].reshape(found[name].shape)
        output = found["attention.o_proj.weight"]
        columns = output.reshape(len(output), n, config.head_dim)
        return found | {"attention.o_proj.weight": columns[:, order].reshape(output.shape)}

    return Change(config, parameters=changed)


def _without_biases(*projections: str) -> Callable[[DecoderConfig], Change | None]:
    """Drop the biases of these projections; of all, where none is named.

    The change is None where only one projection has biases: then dropping those of all is the same mistake.
    """

    def change(config: DecoderConfig) -> Change | None:
        dropped = config.biases.intersection(projections) if projections else config.biases
        if not dropped or (projections and dropped == config.biases):
            return None
        names = tuple(f"{name}.bias" for name in dropped)

        def changed(i: int, parameters: Parameters) -> Parameters:
            return {
                name: torch.zeros_like(tensor) if name.endswith(names) else tensor
                for name, tensor in parameters.items()
            }

        return Change(config, parameters=changed)

    return change


MISTAKES = (
    Mistake("mask sees ahead", "each token sees the one behind it: the mask is off by one", _seeing(1)),
    Mistake("mask misses a token", "no token sees itself: the mask is off by one", _seeing(-1)),
    Mistake("rope missing", "queries and keys are not rotated", _no_rotation),
    Mistake(
        "rope in pairs",
        "the rotary layout is another one: neighbours in place of halves, as in Meta's checkpoints",
        _everywhere(_in_pairs),
    ),
    Mistake(
        "rope base",
        "the rotary base is another one (10000, or for models of that, 500000)",
        _ropes(lambda rope: replace(rope, theta=500000.0 if rope.theta == 10000 else 10000.0)),
    ),
    Mistake(
        "rope factor", "the rotary scaling has another factor (8, or for models of that, 32)", _ropes(_scaled_otherwise)
    ),
    Mistake(
        "rope scaling missing",
        "the rotary scaling is missing",
        _ropes(lambda rope: replace(rope, scaling=None)),
    ),
    Mistake(
        "LongRoPE factors",
        "LongRoPE's factors are those of the other length: short for long, or long for short",
        _ropes(_divided_otherwise),
    ),
    Mistake("LongRoPE amplitude", "LongRoPE's factor of cosines and sines is missing", _ropes(_without_amplitude)),
    Mistake("rope of the other layers", "sliding and full layers have each other's rotary base", _of_other_kind),
    Mistake("window forgotten", "sliding layers see the whole context: their window is forgotten", _no_window),
    Mistake("k for v", "the weights of k and v are exchanged", _everywhere(_k_for_v)),
    Mistake("heads in turn", "query heads take KV heads in turn, not in groups", _dealt_in_turn),
    Mistake("biases missing", "the biases of all projections are missing", _without_biases()),
    *(
        Mistake(f"bias of {name} missing", f"the bias of {name} is missing", _without_biases(name))
        for name in PROJECTIONS
    ),
    Mistake(
        "qk-norm missing", "queries and keys are not normalised", _if(lambda config: config.qk_norm, qk_norm=False)
    ),
    Mistake(
        "exact GELU",
        "GELU is the exact one, and not its approximation by tanh",
        _other_activation("gelu_tanh", nn.GELU()),
    ),
    Mistake("SiLU for GELU", "the activation is SiLU, and not GELU", _other_activation("gelu_tanh", nn.SiLU())),
    Mistake("GELU for SiLU", "the activation is GELU, and not SiLU", _other_activation("silu", nn.GELU())),
    Mistake(
        "embedding scale missing",
        "the embeddings are not multiplied by sqrt(hidden_size)",
        _if(lambda config: config.embedding_scale != 1, embedding_scale=1.0),
    ),
    Mistake(
        "norm offset missing",
        "norms multiply by their weights, and not by 1 + weight",
        _if(lambda config: config.norm_offset != 0, norm_offset=0.0),
    ),
    Mistake(
        "attention scale",
        "scores are not scaled, or by head_dim where the config says otherwise",
        lambda config: Change(replace(config, attention_scale=_other_scale(config))),
    ),
)


def _other_scale(config: DecoderConfig) -> float:
    usual = config.head_dim**-0.5
    return 1.0 if config.attention_scale == usual else usual
