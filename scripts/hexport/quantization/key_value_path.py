"""This module annotates keys and values on their path from the projections and the caches to the products."""

import torch
from executorch.backends.qualcomm.utils.constants import DEFAULT_EPS_8BIT
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import UniformQuantizationObserverBase
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, SharedQuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

# These ops only move data: their output has the range of their input.
MOVES_DATA = {
    torch.ops.aten.expand.default,
    torch.ops.aten.permute.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.squeeze.dim,
    torch.ops.aten.transpose.int,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.view.default,
}
CONCATENATION = torch.ops.aten.cat.default


def annotate_8_bit_keys_and_values(graph_module: GraphModule, observer: type[UniformQuantizationObserverBase]) -> None:
    """Code keys and values in 8 bits, in the range that `observer` sees.

    They are coded around 128. One encoding holds from the concatenation of the rotated halves (or from the projection)
    on, in the caches and in the products, where the HTP multiplies them with 16-bit queries and probabilities.
    """
    for node in graph_module.graph.nodes:
        if node.target != torch.ops.aten.matmul.default or node.args[1].op == "get_attr":  # a matrix: that of R3
            continue
        spec = QuantizationSpec(
            dtype=torch.uint8,
            qscheme=torch.per_tensor_symmetric,
            observer_or_fake_quant_ctr=observer.with_args(eps=DEFAULT_EPS_8BIT),
        )
        operand = node.args[1]
        node.meta[Q_ANNOTATION_KEY].input_qspec_map[operand] = _share(operand, spec)


def _share(node: Node, spec: QuantizationSpec) -> SharedQuantizationSpec:
    """Give a node and all that it moves one encoding, that of where the path begins; return a spec that refers to it.

    Raises ValueError for a node that neither moves nor concatenates values.
    """
    if node.target not in MOVES_DATA and node.target != CONCATENATION:
        raise ValueError(f"{node}: neither moves nor concatenates keys or values")
    concatenated = node.args[0] if node.target == CONCATENATION else node.args[:1]
    *others, newest = concatenated  # a cache stands before what is added to it
    if newest.target in MOVES_DATA or newest.target == CONCATENATION:
        shared = _share(newest, spec)
        inputs = dict.fromkeys(concatenated, shared)
    elif _is_coded_as(newest, spec):
        shared = SharedQuantizationSpec(newest)  # this is a projection that puts out such codes itself
        inputs = dict.fromkeys(concatenated, shared)
    else:
        shared = SharedQuantizationSpec((newest, node))
        inputs = {newest: spec, **dict.fromkeys(others, shared)}
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, shared, _annotated=True)
    return shared


def _is_coded_as(node: Node, spec: QuantizationSpec) -> bool:
    own = node.meta[Q_ANNOTATION_KEY].output_qspec
    return isinstance(own, QuantizationSpec) and (own.dtype, own.qscheme) == (spec.dtype, spec.qscheme)
