"""Prepared graphs are exported modules with observers, each of which is named by its quantisation point."""

import functools
import math
from dataclasses import dataclass
from types import UnionType
from typing import Any

import torch
from executorch.backends.qualcomm.quantizer.observers.concat_observer import ConcatObserver
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate
from torchao.quantization.pt2e import FixedQParamsObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from hexport.quantization.annotation import quantizer
from hexport.quantization.key_value_path import MOVES_DATA
from hexport.quantization.points import op_name, point_names
from hexport.quantization.quant_attrs import Encoding
from hexport.quantization.recipe import Precision, Recipe
from hexport.quantization.weights import Observer

CHANNELS = 64  # of a projection that stands for all; executorch's quantiser does not take one with a single channel


@dataclass
class PreparedGraph:
    """A prepared graph is an exported module with observers.

    points: observers of activations by point name, in graph order.
    weights: observers of parameters and constant tables by their names.
    outputs: the point of each graph output.
    """

    module: GraphModule
    points: dict[str, Observer]
    weights: dict[str, Observer]
    outputs: list[str]


def prepare(
    module: nn.Module, inputs: tuple, recipe: Recipe, place: str | None, input_names: list[str] | None = None
) -> PreparedGraph:
    """Export `module` and insert the recipe's observers.

    `place` is the module's: a layer's number, `prologue` or `epilogue`; None for the whole decoder. `input_names` are
    the points of the inputs; without them, the inputs' own names are.
    """
    exported = torch.export.export(module, inputs, strict=False).module(check_guards=False)
    return _named(prepare_pt2e(exported, quantizer(recipe, place)), input_names)


@functools.cache
def weight_observer(precision: Precision) -> Observer:
    """Return the observer of the weight of a projection of this precision, in any graph. All projections share it."""
    projection = nn.Conv2d(CHANNELS, 1, kernel_size=1, bias=False).requires_grad_(False)
    inputs = (torch.zeros(1, CHANNELS, 1, 1),)
    return prepare(projection, inputs, Recipe(precision=precision), "0").weights["weight"]


def _named(graph_module: GraphModule, input_names: list[str] | None) -> PreparedGraph:
    """Find the observers of a graph that torchao has prepared, and name them. `input_names` is as in `prepare`."""
    prepared = PreparedGraph(graph_module, {}, {}, [])
    names = point_names(graph_module.graph, input_names)
    parameters = {name for name, _ in (*graph_module.named_parameters(), *graph_module.named_buffers())}
    named: dict[Observer, str] = {}
    for node in _caches_last(graph_module, names):
        observer = observer_of(graph_module, node)
        source, operand_of = _root(graph_module, node)
        if source.op == "get_attr" and source.target in parameters:
            prepared.weights[source.target] = observer
        elif observer not in named:
            named[observer] = names[source] + (f".for_{op_name(operand_of)}" if operand_of else "")
    prepared.points = {name: observer for observer, name in named.items()}
    for value in output_values(graph_module.graph.output_node()):
        prepared.outputs.append(named[observer_of(graph_module, value)])
    return prepared


def output_values(output: Node) -> list[Node]:
    """Return the nodes of the values that a graph puts out, in their order, given its output node."""
    values: list[Node] = []
    map_aggregate(output.args[0], values.append)
    return values


def _caches_last(graph_module: GraphModule, names: dict[Node, str]) -> list[Node]:
    """Return the calls of observers in graph order, but those of caches last.

    A cache shares its observer with what is added to it. The latter names it, because it also exists in graphs without
    caches.
    """
    calls = [node for node in graph_module.graph.nodes if observer_of(graph_module, node) is not None]
    return sorted(calls, key=lambda node: names.get(node.args[0], "").endswith("_cache"))


def observer_of(graph_module: GraphModule, node: Node, kind: type | UnionType = Observer) -> Any:
    """Return the observer of this kind that `node` calls, or None where it calls none."""
    module = getattr(graph_module, node.target) if node.op == "call_module" else None
    return module if isinstance(module, kind) else None


def observe_once(prepared: PreparedGraph) -> None:
    """Drop observer calls that cannot change a range.

    These are calls on parameters, and calls behind ops that only move data which the same observer has already seen.
    The observers of parameters then stay empty.
    """
    graph = prepared.module.graph
    # A concatenation's observer looks up the observers of its inputs by these nodes.
    looked_up = {node for o in prepared.points.values() if isinstance(o, ConcatObserver) for node in o.input_nodes}
    weights = set(prepared.weights.values()) - set(prepared.points.values())
    for node in list(graph.nodes):
        observer = observer_of(prepared.module, node)
        if observer is None:
            continue
        seen = node.args[0]
        moved = seen.target in MOVES_DATA and observer_of(prepared.module, seen.args[0]) is observer
        if observer in weights or (moved and seen not in looked_up):
            node.replace_all_uses_with(seen)
            graph.erase_node(node)
    prepared.module.recompile()


def end_at(prepared: PreparedGraph, point: str) -> None:
    """Cut the graph off where this point is observed first, and make it put out the point's values."""
    graph, observer = prepared.module.graph, prepared.points[point]
    end = next(node for node in graph.nodes if observer_of(prepared.module, node) is observer)
    graph.output_node().args = ((end,),)
    graph.eliminate_dead_code()
    prepared.module.recompile()


def reset(prepared: PreparedGraph) -> None:
    """Make the observers of activations forget their ranges.

    The tensors are new, because a concatenation's observer shares its own with its inputs' observers.
    """
    for observer in prepared.points.values():
        where = observer.min_val.device
        observer.min_val, observer.max_val = (torch.tensor(limit, device=where) for limit in (torch.inf, -torch.inf))


def set_parameters(prepared: PreparedGraph, parameters: dict[str, torch.Tensor]) -> None:
    """Exchange the graph's parameters, without a copy."""
    outcome = prepared.module.load_state_dict(parameters, strict=False, assign=True)
    assert not outcome.unexpected_keys, outcome.unexpected_keys


def encoding_of(observer: Observer) -> Encoding:
    """Return the encoding of the range that an observer saw.

    Its scale is NaN where a NaN was observed, for which torch itself would fail an assertion.
    """
    if getattr(observer, "min_val", torch.zeros(())).isnan().any():
        return Encoding(math.nan, 0, observer.quant_min, observer.quant_max)
    scale, zero_point = observer.calculate_qparams()
    return Encoding(float(scale), int(zero_point), observer.quant_min, observer.quant_max)


def centred_encoding(observer: Observer) -> Encoding:
    """Return an encoding in unsigned codes around their middle, in the scale that signed codes around 0 would have."""
    largest = torch.max(-observer.min_val.clamp(max=0), observer.max_val.clamp(min=0))
    half = (observer.quant_max - observer.quant_min) // 2
    scale = torch.max(largest / half, observer.eps)
    return Encoding(float(scale), observer.quant_min + half + 1, observer.quant_min, observer.quant_max)


def _root(graph_module: GraphModule, node: Node) -> tuple[Node, Node | None]:
    """Return the node whose value an observer sees, and its user where another observer has seen that value before."""
    source, behind_another = node.args[0], False
    # A fixed range is known whatever the data. What follows it has another one.
    while observer_of(graph_module, source, Observer | FixedQParamsObserver) is not None:
        source, behind_another = source.args[0], True
    return source, next(iter(node.users)) if behind_another else None
