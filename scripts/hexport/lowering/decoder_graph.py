"""This module stamps a decoder graph of one AR length from templates, shard by shard.

Values that go from shard to shard, as outputs of one context binary and inputs of later ones, are boundaries: the
hidden states, and the cosines and sines. For example, `hidden_2` is what layer 2 puts out and layer 3 takes, and
`rope_0` are the first cosines. Their names, shapes and encodings follow from templates and quant attrs, so each shard
can be made alone.
"""

from dataclasses import dataclass

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import MASK, MASKS
from hexport.decoder.model import rope_of
from hexport.decoder.rope import TABLES
from hexport.decoder.weights import Checkpoint
from hexport.lowering.recording import GraphOps, OpTensor
from hexport.lowering.shards import Shard
from hexport.lowering.stamping import Parameters, StampPlace, Wire, program_input, stamp, wire_from
from hexport.lowering.template import Template, Templates
from hexport.programs.abi import input_names
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import EPILOGUE, PROLOGUE

INPUT = qnn.Qnn_TensorType_t.QNN_TENSOR_TYPE_APP_WRITE
STATIC = qnn.Qnn_TensorType_t.QNN_TENSOR_TYPE_STATIC


@dataclass(frozen=True)
class DecoderGraph:
    """A decoder graph holds what a graph of one AR length is stamped from."""

    config: DecoderConfig
    templates: Templates
    attrs: QuantAttrs

    @property
    def cached(self) -> bool:
        """Return whether the graph takes caches. One that is as long as the context takes none."""
        return "k_cache" in self.templates.layers[0].inputs

    def inputs(self) -> dict[str, OpTensor]:
        """Return new tensors of the program's inputs by name, in the order of the runner."""
        names = input_names(self.config.n_layers, self.config.sliding_window is not None, self.cached)
        prologue, some_layer = self.templates.prologue, self.templates.layers[0]

        def tensor(name: str) -> OpTensor:
            template, own, encoding = some_layer, name, None
            if name in MASKS:
                own, encoding = MASK, self.attrs.mask
            elif "_cache_" in name:
                own, layer = name.rsplit("_", 1)
                encoding = self.attrs.kv[int(layer)][own[0]]
            else:
                template = prologue
            return program_input(template, own, names.index(name), name, encoding)

        return {name: tensor(name) for name in names}

    def positions(self) -> OpTensor:
        """Return all positions of the context, which a graph without caches always takes."""
        recorded = self.templates.prologue.inputs["input_pos"]
        data = np.arange(recorded.dims[-1], dtype=np.int32).reshape(recorded.dims)
        return recorded.copy(name="positions@0", kind=STATIC, data=data)

    def hidden_before(self, layer: int) -> Wire:
        """Return what layer `layer` (of n layers, layer n is the epilogue) takes, as the part before puts it out."""
        if layer == 0:
            return wire_from(self.templates.prologue, StampPlace(PROLOGUE, self.attrs), 0)
        return wire_from(self.templates.layers[layer - 1], StampPlace(f"layers.{layer - 1}", self.attrs), 0)

    def ropes(self) -> list[Wire]:
        """Return the cosines and sines of the positions as the prologue puts them out, those of all ropes."""
        place = StampPlace(PROLOGUE, self.attrs)
        return [wire_from(self.templates.prologue, place, 1 + i) for i in range(len(TABLES) * len(self.config.ropes))]

    def ropes_from(self, layer: int) -> list[int]:
        """Return which of the prologue's cosines and sines the layers from `layer` on read."""
        numbers = range(len(TABLES) * len(self.config.ropes))
        return sorted({i for kind in self.config.layers[layer:] for i in rope_of(kind, numbers)})


def hidden_name(layer: int) -> str:
    """Return the name of the boundary with the hidden states that layer `layer` takes: `hidden_2` for layer 3."""
    return f"hidden_{layer - 1}" if layer else "hidden"


class ShardGraph:
    """A shard graph is what one context binary computes of a decoder graph.

    Its parts are stamped in order by `prologue`, `layer` and `epilogue`; after the last one, `ops` is complete.
    """

    def __init__(self, graph: DecoderGraph, shard: Shard):
        self.graph, self.shard, self.ops = graph, shard, GraphOps()
        self._inputs = graph.inputs()
        self._hidden, self._ropes = graph.hidden_before(shard.layers.start), graph.ropes()
        if not shard.prologue:
            first = len(self._inputs)
            self._hidden = _entering(self._hidden, first, hidden_name(shard.layers.start))
            for number, i in enumerate(graph.ropes_from(shard.layers.start), first + 1):
                self._ropes[i] = _entering(self._ropes[i], number, f"rope_{i}")

    def prologue(self, parameters: Parameters | None) -> None:
        """Stamp the prologue.

        The hidden states leave the shard where no layer follows, and so do the cosines and sines that later shards
        read.
        """
        positions = self._inputs["input_pos"] if self.graph.cached else self.graph.positions()
        inputs = {"tokens": Wire(self._inputs["tokens"]), "input_pos": Wire(positions)}
        later, layers = self.graph.ropes_from(self.shard.layers.stop), self.shard.layers
        leaving = {1 + i: f"rope_{i}" for i in later} | ({} if layers else {0: hidden_name(0)})
        place = StampPlace(PROLOGUE, self.graph.attrs, parameters, inputs)
        self._hidden, *self._ropes = self._emit(self.graph.templates.prologue, place, leaving)

    def layer(self, i: int, parameters: Parameters | None) -> None:
        """Stamp layer `i`.

        The new k and v leave the shard. So do the hidden states after the last layer, unless the epilogue is in the
        shard.
        """
        kind = self.graph.config.layers[i]
        inputs = {"hidden": self._hidden, MASK: Wire(self._inputs[MASKS[kind.sliding]], MASK)}
        inputs |= {f"rope_{j}": wire for j, wire in enumerate(rope_of(kind, self._ropes))}
        if self.graph.cached:
            for cache in ("k_cache", "v_cache"):
                inputs[cache] = Wire(self._inputs[f"{cache}_{i}"], f"layers.{i}.{cache}")
        leaves = i == self.shard.layers[-1] and not self.shard.epilogue
        leaving = {1: f"k_{i}", 2: f"v_{i}"} | ({0: hidden_name(i + 1)} if leaves else {})
        place = StampPlace(f"layers.{i}", self.graph.attrs, parameters, inputs)
        self._hidden, _, _ = self._emit(self.graph.templates.layers[i], place, leaving)

    def epilogue(self, parameters: Parameters | None) -> None:
        """Stamp the epilogue. The logits leave the shard."""
        place = StampPlace(EPILOGUE, self.graph.attrs, parameters, {"hidden": self._hidden})
        self._emit(self.graph.templates.epilogue, place, {0: "logits"})

    def _emit(self, template: Template, place: StampPlace, leaving: dict[int, str]) -> list[Wire]:
        """Stamp a template. `leaving` names those of its outputs, by number, that leave the shard."""
        ops, wires = stamp(template, place, leaving)
        for op in ops:
            self.ops.add(op)
        return wires


def _entering(wire: Wire, number: int, name: str) -> Wire:
    return Wire(wire.tensor.copy(name=f"input_{number}_{name}@0", kind=INPUT), wire.point)


def stamp_shard(
    graphs: list[DecoderGraph], checkpoint: Checkpoint | None, shard: Shard, progress: Progress | None = None
) -> list[GraphOps]:
    """Stamp a shard of all graphs. Weights are read and quantised once, part by part.

    Without a checkpoint, the ops have no weights: they tell what the shard takes and puts out, in the order of its
    context binary.
    """
    stamped = [ShardGraph(graph, shard) for graph in graphs]
    if shard.prologue:
        parameters = checkpoint and Parameters(checkpoint.prologue_parameters())
        for each in stamped:
            each.prologue(parameters)
    for i in progress.steps(shard.layers, "stamp", len(shard.layers)) if progress else shard.layers:
        parameters = checkpoint and Parameters(checkpoint.layer_parameters(i))
        for each in stamped:
            each.layer(i, parameters)
    if shard.epilogue:
        parameters = checkpoint and Parameters(checkpoint.epilogue_parameters())
        for each in stamped:
            each.epilogue(parameters)
    return [each.ops for each in stamped]
