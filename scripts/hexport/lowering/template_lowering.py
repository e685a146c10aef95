"""This module makes a template: a prepared graph goes through executorch's QNN flow, and its ops are recorded.

A template is lowered like any model, once. To find out afterwards which calibrated encoding and which parameter (and
which of its output channels) each QNN tensor stands for, the observers hand out tags instead of scales: numbers that
are unique per point, or per parameter and channel, and that survive every pass of the QNN backend.
"""

import contextlib
import re
from dataclasses import replace

import numpy as np
import torch
from executorch.backends.qualcomm.quantizer.observers.per_block_param_observer import PerBlockParamObserver
from executorch.backends.qualcomm.quantizer.observers.per_channel_param_observer import PerChannelParamObserver
from executorch.backends.qualcomm.utils.constants import (
    QCOM_BLOCK_SCALE_OFFSET,
    QCOM_BLOCK_SCALES,
    QCOM_DTYPE,
    QCOM_PASS_ACTIVATE_KEY,
    QCOM_PASS_ARGS_KWARGS_DEFAULTS_KEY,
    QCOM_QUANT_ATTRS,
    QCOM_SCALE,
    QCOM_SCALE_OFFSET,
)
from executorch.backends.qualcomm.utils.utils import to_edge_transform_and_lower_to_qnn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from hexport.errors import HexportError
from hexport.executorch_internals import (
    capture_passes,
    composite_ops_loaded_once,
    exported_as_it_runs,
    graphs_compiled_when_run,
    node_histories_shared,
    op_builder_replaced,
)
from hexport.lowering.compile_spec import compile_spec
from hexport.lowering.norm_builder import BIAS_OF_SCALE
from hexport.lowering.recording import Op, OpTensor, recording
from hexport.lowering.template import Filling, Template, blank, unique_tensors
from hexport.quantization.prepared import PreparedGraph, output_values
from hexport.quantization.weights import Observer, coding_of
from hexport.targets.target import Target

POINT_TAG = 2.0**-8
POINT_TAGS = 2**14  # float32 tells this many tags in [POINT_TAG, 2 POINT_TAG) apart, with bits to spare
AFFINE_ZERO_POINT = 7  # any code but 0: biases of norms keep 0, as QNN demands, and symmetric points theirs
BLOCK_STEPS = 16  # the largest block scale, in units of its channel's
PARAMETER_TAG = 2.0**-6
CONVOLUTION = "Conv2d"
CHANNEL_BITS = 18  # of the 23 bits of a float32 mantissa; the others number the parameters


def lower_template(prepared: PreparedGraph, target: Target) -> Template:
    """Lower a prepared graph to recorded ops. Raises HexportError as `record_ops` does."""
    tags = _Tags(prepared)
    inputs = example_inputs(prepared.module)
    with torch.no_grad():
        prepared.module(*inputs)  # convert_pt2e refuses observers that have seen nothing
    return _decode(record_ops(convert_pt2e(prepared.module), inputs, target), prepared, tags)


def example_inputs(graph_module: GraphModule) -> tuple[torch.Tensor, ...]:
    """Return inputs of zeros in the shapes and dtypes that the graph was exported with."""
    values = [node.meta["val"] for node in graph_module.graph.find_nodes(op="placeholder")]
    return tuple(torch.zeros(value.shape, dtype=value.dtype) for value in values)


def record_ops(converted: GraphModule, inputs: tuple, target: Target) -> list[Op]:
    """Pass a quantised graph through executorch's whole QNN flow, up to the call of the HTP compiler; return its ops.

    Raises HexportError where the QNN backend cannot take every op, and so cuts the graph.
    """
    recorded: list[list[Op]] = []

    def record(part: ExportedProgram, *args) -> None:
        if io_names(part) != whole:
            raise HexportError(
                f"{target.soc}: the QNN backend does not take every op of the decoder; the log names them"
            )
        with recording():
            recorded.append(build_op_wrappers(part, *args))
        raise _RecordedAll

    output = converted.graph.output_node()
    whole = {node.name for node in converted.graph.find_nodes(op="placeholder")}, len(output_values(output))

    with (
        contextlib.suppress(_RecordedAll),
        node_histories_shared(),
        graphs_compiled_when_run(),
        composite_ops_loaded_once(),
        exported_as_it_runs(),
        op_builder_replaced(record) as build_op_wrappers,
    ):
        to_edge_transform_and_lower_to_qnn(
            converted, inputs, compile_spec(target), passes_job=quantized_io_passes(converted)
        )
    return recorded[0]


def io_names(program: ExportedProgram) -> tuple[set[str], int]:
    """Return the names of a program's inputs, and how many outputs it has."""
    return set(program.graph_signature.user_inputs), len(program.graph_signature.user_outputs)


class _RecordedAll(Exception):
    """This exception leaves executorch's flow once the ops are known."""


def quantized_io_passes(converted: GraphModule) -> dict:
    """Return the default passes, which are to exchange float inputs and all outputs as codes of 8 or 16 bits."""
    inputs = {node.name for node in converted.graph.find_nodes(op="placeholder")}

    def io_dtype(node: Node) -> torch.dtype | None:
        is_input = node.op == "placeholder" and node.name in inputs and node.meta["val"].is_floating_point()
        if not is_input and all(user.op != "output" for user in node.users):
            return None
        return torch.uint8 if node.meta[QCOM_QUANT_ATTRS][QCOM_DTYPE] == torch.uint8 else torch.uint16

    passes, tagging = capture_passes()
    passes[tagging][QCOM_PASS_ACTIVATE_KEY] = True
    passes[tagging][QCOM_PASS_ARGS_KWARGS_DEFAULTS_KEY]["get_quant_io_dtype_fn"] = io_dtype
    return passes


class _Tags:
    """Tags are what the observers of one graph hand out in place of scales; an instance can read them back."""

    def __init__(self, prepared: PreparedGraph):
        self.by_scale: dict[float, Filling] = {}
        self.per_channel: list[str] = []
        points = {observer: point for point, observer in prepared.points.items()}
        parameters = {observer: name for name, observer in prepared.weights.items()}
        for observer in {**points, **parameters}:
            point, parameter = points.get(observer), parameters.get(observer)
            if isinstance(observer, PerChannelParamObserver | PerBlockParamObserver):
                scales = _channel_tags(len(self.per_channel))
                self.per_channel.append(parameter)
            else:
                # Not from 0: POINT_TAG itself, a power of 2, is the scale that the backend gives 8-bit sigmoids.
                scales = np.array([POINT_TAG * (1 + (len(self.by_scale) + 1) / POINT_TAGS)], dtype=np.float32)
                self.by_scale[float(scales[0])] = Filling(point, parameter)
            _answer_with(observer, scales)

    def filling(self, tensor: OpTensor) -> Filling | None:
        quantization = tensor.quantization
        channels = channel_encodings(quantization)
        if channels is not None:
            steps = BLOCK_STEPS if QCOM_BLOCK_SCALE_OFFSET in quantization else 1
            mantissas = np.rint((channels["scale"].astype(np.float64) * steps / PARAMETER_TAG - 1) * 2**23)
            codes = mantissas.astype(np.int64)
            return Filling(None, self.per_channel[codes[0] >> CHANNEL_BITS], codes & (2**CHANNEL_BITS - 1))
        scale = float(np.float32(quantization.get(QCOM_SCALE, 0.0)))
        filling = self.by_scale.get(scale)
        if filling is None and (of_norm := self.by_scale.get(scale / BIAS_OF_SCALE)):
            return replace(of_norm, of_scale=BIAS_OF_SCALE)
        if filling is not None and tensor.data is None:
            return replace(filling, parameter=None)
        return filling


def channel_encodings(quantization: dict) -> np.ndarray | None:
    """Return the scale and offset of each output channel, or None where a tensor has none.

    For a tensor in blocks, the scale is the unit of its blocks' scales.
    """
    return quantization.get(QCOM_BLOCK_SCALE_OFFSET, quantization.get(QCOM_SCALE_OFFSET))


def _channel_tags(number: int) -> np.ndarray:
    """Return tags, float32 (2^18,), of a parameter's output channels: a mantissa holds `number` and the channel."""
    codes = (number << CHANNEL_BITS) + np.arange(2**CHANNEL_BITS, dtype=np.float64)
    return (PARAMETER_TAG * (1 + codes / 2**23)).astype(np.float32)


def _answer_with(observer: Observer, tags: np.ndarray) -> None:
    """Make an observer hand out tags for scales. Its class still computes the real ones."""
    compute = observer.calculate_qparams

    def calculate_qparams():
        scale, zero_point = compute()
        if isinstance(observer, PerBlockParamObserver):  # all blocks of a channel alike
            tagged = torch.from_numpy(tags[: len(scale)]).reshape(-1, *(1 for _ in scale.shape[1:])).expand(scale.shape)
            return tagged.to(scale.dtype).contiguous(), zero_point
        tagged = torch.from_numpy(tags[: scale.numel()]).to(scale.dtype).reshape(scale.shape)
        affine = observer.qscheme == torch.per_tensor_affine
        return tagged, torch.full_like(zero_point, AFFINE_ZERO_POINT) if affine else zero_point

    observer.calculate_qparams = calculate_qparams


def _decode(ops: list[Op], prepared: PreparedGraph, tags: _Tags) -> Template:
    constants = {name: buffer for name, buffer in prepared.module.named_buffers() if name in prepared.weights}
    template = Template(ops, {}, {}, [], {}, constants)
    outputs: dict[str, OpTensor] = {}
    biases = _biases(ops, tags)
    for tensor in unique_tensors(ops):
        filling = biases.get(tensor) or tags.filling(tensor)
        if filling is not None:
            template.fillings[tensor] = filling
            _empty(tensor, filling)
        if tensor.name.startswith("input_"):
            template.inputs[re.fullmatch(r"input_\d+_(.*)@0", tensor.name)[1]] = tensor
        elif tensor.name.startswith("output_"):
            outputs[filling.point] = tensor
    template.outputs = [outputs[point] for point in prepared.outputs]
    coded = {filling.bias_of or filling.parameter for filling in template.fillings.values() if filling.decides}
    template.codings = {name: coding_of(prepared.weights[name]) for name in sorted(coded)}
    return template


def _empty(tensor: OpTensor, filling: Filling) -> None:
    """Drop what comes from the parameter that a tensor holds, so that a template says nothing of any weights."""
    if filling.parameter is not None:
        tensor.data = blank(tensor.data.dtype, tensor.data.shape)
    if filling.channels is not None:
        for key in (QCOM_SCALE_OFFSET, QCOM_BLOCK_SCALE_OFFSET, QCOM_BLOCK_SCALES):
            tensor.quantization.pop(key, None)
    elif QCOM_SCALE in tensor.quantization:
        tensor.quantization[QCOM_SCALE] = 1.0


def _biases(ops: list[Op], tags: _Tags) -> dict[OpTensor, Filling]:
    """Return the biases of convolutions. Their scales are products of tags, so only their place identifies them."""
    biases = {}
    for op in ops:
        if op.type == CONVOLUTION and len(op.inputs) == 3:
            x, weight, bias = op.inputs
            of = tags.filling(weight)
            name = of.parameter.removesuffix("weight") + "bias"
            biases[bias] = Filling(tags.filling(x).point, name, of.channels, bias_of=of.parameter)
    return biases
