"""A decoder graph of one AR length, stamped from templates."""

import itertools
from dataclasses import dataclass, replace

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import MASK, MASKS
from hexport.decoder.model import Epilogue, Prologue, rope_of
from hexport.decoder.rope import TABLES
from hexport.decoder.weights import Checkpoint
from hexport.lowering.recording import GraphOps, Tensor
from hexport.lowering.shards import Shard
from hexport.lowering.stamping import Parameters, Place, Wire, program_input, stamp
from hexport.lowering.template import Template, lower_template, resize
from hexport.programs.abi import input_names
from hexport.progress import Progress
from hexport.quantization.calibration import prepare_epilogue, prepare_layer, prepare_prologue
from hexport.quantization.quant_attrs import Encoding, QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.targets.target import Target

INPUT = qnn.Qnn_TensorType_t.QNN_TENSOR_TYPE_APP_WRITE
STATIC = qnn.Qnn_TensorType_t.QNN_TENSOR_TYPE_STATIC


@dataclass
class Templates:
    prologue: Template
    layers: list[Template]  # of each layer; layers that are alike share one
    epilogue: Template


def lower_templates(
    checkpoint: Checkpoint, recipe: Recipe, target: Target, ar_len: int, context_len: int, progress: Progress
) -> Templates:
    """Lower the prologue, the epilogue and one layer of each signature."""
    config = checkpoint.config
    small = with_small_vocabulary(config, context_len, ar_len)
    with progress.stage(f"template prologue AR-{ar_len}"):
        module = Prologue(small, context_len).eval().requires_grad_(False)
        prologue = lower_template(prepare_prologue(module, ar_len, recipe), target)
    layers: dict[tuple, Template] = {}
    signatures = [(config.layer_signature(i), recipe.template_of(i)) for i in range(config.n_layers)]
    for i, signature in enumerate(signatures):
        if signature not in layers:
            with progress.stage(f"template layer AR-{ar_len} {signature[0]}{_with_overrides(signature[1])}"):
                prepared = prepare_layer(checkpoint, i, context_len, ar_len, recipe, cached=ar_len < context_len)
                layers[signature] = lower_template(prepared, target)
    with progress.stage(f"template epilogue AR-{ar_len}"):
        module = Epilogue(small).eval().requires_grad_(False)
        epilogue = lower_template(prepare_epilogue(module, ar_len, recipe), target)
    for template in (prologue, epilogue):
        resize(template, small.vocab_size, config.vocab_size)
    return Templates(prologue, [layers[signature] for signature in signatures], epilogue)


def _with_overrides(template: tuple) -> str:
    return f" with overrides of {', '.join(points for points, _ in template)}" if template else ""


def with_small_vocabulary(config: DecoderConfig, context_len: int, ar_len: int) -> DecoderConfig:
    """A stand-in for templates, which then need no memory for vocabularies. No other size of them equals its own."""
    taken = {config.hidden_size, context_len, ar_len, *(rope.dims // 2 for rope in config.ropes)}
    return replace(config, vocab_size=next(size for size in itertools.count(97) if size not in taken))


@dataclass
class ShardOps:
    """What one context binary computes of a decoder graph.

    feeds: inputs that an earlier shard puts out -> the output there.
    """

    ops: GraphOps
    feeds: dict[Tensor, Tensor]


class DecoderGraph:
    """A decoder graph of one AR length, which `stamp_shard` fills.

    From shard to shard go the hidden states, and the cosines and sines. `inputs` and `outputs` are the program's, in
    the order of the runner; outputs are complete after the last shard.
    """

    def __init__(self, config: DecoderConfig, templates: Templates, attrs: QuantAttrs):
        self.config, self.templates, self.attrs = config, templates, attrs
        some_layer = templates.layers[0]
        self.cached = "k_cache" in some_layer.inputs
        names = input_names(config.n_layers, config.sliding_window is not None, self.cached)

        def program_input_of(template: Template, own: str, name: str, encoding: Encoding | None = None) -> Tensor:
            return program_input(template, own, names.index(name), name, encoding)

        self.tokens = program_input_of(templates.prologue, "tokens", "tokens")
        self.masks = [program_input_of(some_layer, MASK, name, attrs.mask) for name in names if name in MASKS]
        self.k_caches: list[Tensor] = []
        self.v_caches: list[Tensor] = []
        if self.cached:
            self.positions = program_input_of(templates.prologue, "input_pos", "input_pos")
            self.k_caches, self.v_caches = (
                [program_input_of(some_layer, cache, f"{cache}_{i}", kv[key]) for i, kv in enumerate(attrs.kv)]
                for cache, key in (("k_cache", "k"), ("v_cache", "v"))
            )
        else:  # all positions of the context, always
            recorded = templates.prologue.inputs["input_pos"]
            data = np.arange(recorded.dims[-1], dtype=np.int32).reshape(recorded.dims)
            self.positions = recorded.copy(name="positions@0", kind=STATIC, data=data)
        self.hidden: Wire | None = None  # of the last shard so far
        self.ropes: list[Wire] = []  # of the prologue
        self.new_k: list[Tensor] = []
        self.new_v: list[Tensor] = []
        self.logits: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        positions = [self.positions] if self.cached else []
        return [self.tokens, *self.masks, *positions, *self.k_caches, *self.v_caches]

    @property
    def outputs(self) -> list[Tensor]:
        return [self.logits, *self.new_k, *self.new_v]

    def prologue(self, shard: ShardOps, layers: range, parameters: Parameters, leaves: bool) -> list[Wire]:
        """Returns the cosines and sines. Those that later shards need become outputs too; `leaves` says that a later
        shard takes the hidden states."""
        inputs = {"tokens": Wire(self.tokens), "input_pos": Wire(self.positions)}
        leaving = {1 + i: f"rope_{i}" for i in self._ropes_from(layers.stop)} | ({0: "hidden"} if leaves else {})
        place = Place("prologue", self.attrs, parameters, inputs)
        self.hidden, *self.ropes = _emit(shard, self.templates.prologue, place, leaving)
        return self.ropes

    def enter(self, shard: ShardOps, layers: range) -> list[Wire]:
        """Take the hidden states, and the cosines and sines, from earlier shards; returns the latter."""
        self.hidden = self._entering(shard, self.hidden, "hidden")
        ropes = list(self.ropes)
        for i in self._ropes_from(layers.start):
            ropes[i] = self._entering(shard, ropes[i], f"rope_{i}")
        return ropes

    def _entering(self, shard: ShardOps, wire: Wire, name: str) -> Wire:
        number = len(self.inputs) + len(shard.feeds)
        tensor = wire.tensor.copy(name=f"input_{number}_{name}@0", kind=INPUT)
        shard.feeds[tensor] = wire.tensor
        return Wire(tensor, wire.point)

    def _ropes_from(self, layer: int) -> list[int]:
        """Which of the prologue's cosines and sines the layers from `layer` on read."""
        numbers = range(len(TABLES) * len(self.config.ropes))
        return sorted({i for kind in self.config.layers[layer:] for i in rope_of(kind, numbers)})

    def layer(self, shard: ShardOps, i: int, parameters: Parameters, ropes: list[Wire], leaves: bool) -> None:
        """`leaves` says that a later shard takes the hidden states."""
        template, kind = self.templates.layers[i], self.config.layers[i]
        inputs = {
            "hidden": self.hidden,
            MASK: Wire(self.masks[kind.sliding], MASK),
            **{f"rope_{j}": wire for j, wire in enumerate(rope_of(kind, ropes))},
        }
        if self.cached:
            inputs |= {
                "k_cache": Wire(self.k_caches[i], f"layers.{i}.k_cache"),
                "v_cache": Wire(self.v_caches[i], f"layers.{i}.v_cache"),
            }
        place = Place(f"layers.{i}", self.attrs, parameters, inputs)
        leaving = {1: f"k_{i}", 2: f"v_{i}"} | ({0: f"hidden_{i}"} if leaves else {})
        self.hidden, k, v = _emit(shard, template, place, leaving)
        self.new_k.append(k.tensor)
        self.new_v.append(v.tensor)

    def epilogue(self, shard: ShardOps, parameters: Parameters) -> None:
        place = Place("epilogue", self.attrs, parameters, {"hidden": self.hidden})
        (logits,) = _emit(shard, self.templates.epilogue, place, {0: "logits"})
        self.logits = logits.tensor


def stamp_shard(graphs: list[DecoderGraph], checkpoint: Checkpoint, shard: Shard, progress: Progress) -> list[ShardOps]:
    """Stamp a shard of all graphs, first shards first; weights are read and quantised once, part by part."""
    stamped = [ShardOps(GraphOps(), {}) for _ in graphs]
    pairs = list(zip(graphs, stamped, strict=True))
    if shard.prologue:
        parameters, leaves = Parameters(checkpoint.prologue_parameters()), not shard.layers
        ropes = [graph.prologue(ops, shard.layers, parameters, leaves) for graph, ops in pairs]
    else:
        ropes = [graph.enter(ops, shard.layers) for graph, ops in pairs]
    for i in progress.steps(shard.layers, "stamp", len(shard.layers)):
        parameters, leaves = Parameters(checkpoint.layer_parameters(i)), i == shard.layers[-1] and not shard.epilogue
        for (graph, ops), angles in zip(pairs, ropes, strict=True):
            graph.layer(ops, i, parameters, angles, leaves)
    if shard.epilogue:
        parameters = Parameters(checkpoint.epilogue_parameters())
        for graph, ops in pairs:
            graph.epilogue(ops, parameters)
    return stamped


def _emit(shard: ShardOps, template: Template, place: Place, leaving: dict[int, str]) -> list[Wire]:
    """Stamp a template into a shard; `leaving` names the outputs that leave it."""
    ops, wires = stamp(template, place, leaving)
    for op in ops:
        shard.ops.add(op)
    return wires
