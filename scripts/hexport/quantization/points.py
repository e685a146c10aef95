"""Quantisation points are stable names for every op of a decoder's graph.

A point is named by its place in the decoder, `layers.<i>.<module path>.<op>`, with `_1`, `_2` … for further ops of one
kind in one module. For example, `layers.3.attention.q_rope.mul` is what the first multiplication puts out in the module
that rotates the queries of layer 3, and `layers.3.attention.q_rope.mul_1` is what the second one does. A value that an
op reads in other codes has a second point, named as in `prologue.embedding.embedding.for_mul`. So a point has the same
name in a one-layer template and in the whole model's graph, at any AR length and context length.
"""

import re
from collections import Counter

from torch.fx import Graph, Node

from hexport.quantization.recipe import EPILOGUE, PROLOGUE


def point_names(graph: Graph, input_names: list[str] | None = None) -> dict[Node, str]:
    """Return the point of every input, op and parameter of a graph, without the place of the graph itself.

    `input_names` are the points of the inputs; without them, the inputs' own names are.
    """
    placeholders = graph.find_nodes(op="placeholder")
    names = dict(zip(placeholders, input_names or [node.name for node in placeholders], strict=True))
    ordinals: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "call_function":
            base = _place(node) + op_name(node)
            names[node] = f"{base}_{ordinals[base]}" if ordinals[base] else base
            ordinals[base] += 1
        elif node.op == "get_attr":
            names[node] = node.target
    return names


def op_name(node: Node) -> str:
    """Return the name of the op that a node calls, without its overload: `mul` for `aten.mul.Tensor`."""
    return node.target.__name__.split(".")[0]


def placed(name: str) -> tuple[str, str]:
    """Split the name of a point of the whole decoder into its place and the point there.

    Of `layers.3.attention.q_proj.conv2d`, these are `3` and `attention.q_proj.conv2d`. The place is empty for points
    outside layers, prologue and epilogue, such as masks.
    """
    if match := re.fullmatch(r"layers\.(\d+)\.(.*)", name):
        return match[1], match[2]
    place, _, point = name.partition(".")
    return (place, point) if place in (PROLOGUE, EPILOGUE) else ("", name)


def _place(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    return f"{path}." if path else ""
