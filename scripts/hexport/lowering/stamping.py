"""Stamping repeats a template's ops once per layer, with that layer's encodings and quantised weights filled in."""

from dataclasses import astuple, dataclass, field

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np
import torch
from executorch.backends.qualcomm.utils.constants import (
    QCOM_BITWIDTH,
    QCOM_BLOCK_SCALE_OFFSET,
    QCOM_BLOCK_SCALES,
    QCOM_OFFSET,
    QCOM_SCALE,
    QCOM_SCALE_OFFSET,
)

from hexport.lowering.recording import Op, OpTensor
from hexport.lowering.template import Filling, Template
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.quant_attrs import Encoding, QuantAttrs
from hexport.quantization.weights import (
    CHUNK,
    Observer,
    channel_scales,
    codes,
    encoding_of_parameter,
    is_in_blocks,
    observer_for,
    weight_encoding,
)

CONVERT, CAST = "Convert", "Cast"
FIXED_16 = {qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_16, qnn.Qnn_DataType_t.QNN_DATATYPE_SFIXED_POINT_16}
NATIVE = qnn.Qnn_TensorType_t.QNN_TENSOR_TYPE_NATIVE


@dataclass(frozen=True)
class Wire:
    """A wire is a tensor between stamps, with the point in the quant attrs that says how it is coded."""

    tensor: OpTensor
    point: str | None = None


@dataclass
class Parameters:
    """Parameters hold the float tensors of a place of the decoder, and their codes, so that graphs share these.

    tensors: float tensors by name.
    per_tensor: codes of parameters with a single scale, by name and encoding.
    per_channel: weights and biases quantised per output channel, by name.
    of_heads: the codes of some output channels, such as those of a head, by name and channels.

    The last three are filled when a graph is stamped, and are there for the next graph.
    """

    tensors: dict[str, torch.Tensor]
    per_tensor: dict[tuple[str, Encoding], np.ndarray] = field(default_factory=dict)
    per_channel: dict[str, "_Quantised"] = field(default_factory=dict)
    of_heads: dict[tuple[str, bytes], np.ndarray] = field(default_factory=dict)


@dataclass
class StampPlace:
    """A stamp place is where in the decoder a template is stamped: its name, encodings, parameters and inputs.

    For example, `StampPlace("layers.3", attrs, parameters, {"hidden": wire, …})` is layer 3. There, the template's
    point `attention.q_rope.mul` is `layers.3.attention.q_rope.mul`, and `hidden` is the point of the wire, which layer
    2 puts out: `layers.2.add_1`. Without parameters, tensors that hold some stay blank.
    """

    name: str
    attrs: QuantAttrs
    parameters: Parameters | None = None
    inputs: dict[str, Wire] = field(default_factory=dict)

    def point(self, point: str) -> str:
        """Return the name in the quant attrs of a point of the template."""
        return self.inputs[point].point if point in self.inputs else f"{self.name}.{point}"


def stamp(template: Template, place: StampPlace, program_outputs: dict[int, str]) -> tuple[list[Op], list[Wire]]:
    """Instantiate a template; return its ops and what it puts out.

    `program_outputs` names the outputs, by number, that leave the program; the others stay inside it. Raises
    HexportError where the quant attrs lack a point.
    """
    stamped = {template.inputs[name]: wire.tensor for name, wire in place.inputs.items()}
    for number, tensor in enumerate(template.outputs):
        stamped[tensor] = _fill(template, tensor, place)
        if number in program_outputs:
            stamped[tensor].name = f"output_{program_outputs[number]}@0"
        else:
            stamped[tensor].kind = NATIVE

    def of(tensors: list[OpTensor]) -> list[OpTensor]:
        for tensor in tensors:
            if tensor not in stamped:
                stamped[tensor] = _fill(template, tensor, place)
        return [stamped[tensor] for tensor in tensors]

    ops = [_stamped_op(op, place, of(op.inputs), of(op.outputs)) for op in template.ops]
    outputs = [Wire(stamped[tensor], place.point(template.fillings[tensor].point)) for tensor in template.outputs]
    return ops, outputs


def wire_from(template: Template, place: StampPlace, number: int) -> Wire:
    """Return what a stamp puts out as output `number`, without stamping it."""
    tensor = template.outputs[number]
    return Wire(_fill(template, tensor, place), place.point(template.fillings[tensor].point))


def _stamped_op(op: Op, place: StampPlace, inputs: list[OpTensor], outputs: list[OpTensor]) -> Op:
    """Return a copy of a template's op for a place, with these tensors.

    A conversion between unsigned and signed 16-bit codes of one scale is a cast, as executorch's builder makes it
    (op_to.py). Only the encodings of the place tell, so the template has a conversion.
    """
    kind = CAST if op.type == CONVERT and _castable(inputs[0], outputs[0]) else op.type
    return Op(f"{place.name}.{op.name}", op.package, kind, inputs, outputs, op.tensor_params, op.scalar_params)


def _castable(a: OpTensor, b: OpTensor) -> bool:
    same_scale = a.quantization[QCOM_SCALE] == b.quantization[QCOM_SCALE]
    shift = abs(a.quantization[QCOM_OFFSET] - b.quantization[QCOM_OFFSET])
    return {a.dtype, b.dtype} == FIXED_16 and same_scale and shift == 2**15


def program_input(
    template: Template, template_name: str, number: int, name: str, encoding: Encoding | None
) -> OpTensor:
    """Return the program's input tensor for a template's input. The runtime binds inputs by the numbers in names."""
    tensor = template.inputs[template_name].copy(name=f"input_{number}_{name}@0")
    if encoding is not None:
        tensor.quantization |= {QCOM_SCALE: encoding.scale, QCOM_OFFSET: -encoding.zero_point}
    return tensor


@dataclass
class _Quantised:
    """An instance is a parameter in codes, laid out as QNN holds it, output channels last.

    scales: float32 (out,).
    blocks: uint8 (out, blocks), the scale of each block in units of its channel's, if there are blocks.
    """

    codes: np.ndarray
    scales: np.ndarray
    blocks: np.ndarray | None = None


def _fill(template: Template, tensor: OpTensor, place: StampPlace) -> OpTensor:
    """Return a copy of a template's tensor with the encoding and the data of a place."""
    stamped = tensor.copy(name=f"{place.name}.{tensor.name}")
    filling = template.fillings.get(tensor)
    if filling is None:
        return stamped
    if filling.parameter is None:
        _set_encoding(stamped, place.attrs.encoding(place.point(filling.point)), filling.of_scale)
        return stamped
    if place.parameters is None:
        return stamped
    name, parameters = filling.parameter, place.parameters
    own = name in parameters.tensors  # otherwise it is a constant of the template
    parameter = parameters.tensors[name] if own else template.constants[name]
    coding = template.codings.get(filling.bias_of or name)
    if filling.channels is None:
        if filling.point is None:
            encoding = encoding_of_parameter(observer_for(coding), parameter)
        else:
            encoding = place.attrs.encoding(place.point(filling.point))
        _set_encoding(stamped, encoding)
        known = parameters.per_tensor if own else {}
        if (name, encoding) not in known:
            known[name, encoding] = _per_tensor_codes(parameter, encoding, tensor.data.dtype)
        stamped.data = known[name, encoding].reshape(tensor.data.shape)
    else:
        if name not in parameters.per_channel:
            parameters.per_channel[name] = _quantise(filling, tensor, place, parameter, observer_for(coding))
        quantised, channels = parameters.per_channel[name], filling.channels
        _set_channel_encodings(stamped, quantised, channels)
        key = name, channels.tobytes()
        if key not in parameters.of_heads:
            whole = len(channels) == quantised.codes.shape[-1]
            parameters.of_heads[key] = (
                quantised.codes if whole else np.ascontiguousarray(quantised.codes[..., channels])
            )
        stamped.data = parameters.of_heads[key]
    assert list(stamped.data.shape) == list(tensor.data.shape), (tensor.name, stamped.data.shape, tensor.data.shape)
    return stamped


def _set_encoding(tensor: OpTensor, encoding: Encoding, of_scale: float = 1.0) -> None:
    """Set the encoding of a tensor, but leave an offset of 0.

    The bias that QNN's RmsNorm demands is coded around zero, in units of its output's scale.
    """
    offset = -encoding.zero_point if tensor.quantization[QCOM_OFFSET] else 0
    tensor.quantization |= {QCOM_SCALE: of_scale * encoding.scale, QCOM_OFFSET: offset}


def _per_tensor_codes(parameter: torch.Tensor, encoding: Encoding, dtype: np.dtype) -> np.ndarray:
    """Return the codes of a parameter, flat."""
    values, codes = parameter.reshape(-1), np.empty(parameter.numel(), dtype)
    for start in range(0, len(codes), CHUNK):
        codes[start : start + CHUNK] = torch.ops.quantized_decomposed.quantize_per_tensor(
            values[start : start + CHUNK], *astuple(encoding), torch.int32
        )
    return codes


def _quantise(
    filling: Filling, tensor: OpTensor, place: StampPlace, parameter: torch.Tensor, observer: Observer
) -> _Quantised:
    name = filling.bias_of or filling.parameter
    coded = place.attrs.weights.get(f"{place.name}.{name.removesuffix('.weight')}")
    if coded is None:
        coded = CodedWeight(weight_encoding(observer, place.parameters.tensors[name])[0])
    if filling.bias_of is None:
        return _quantise_weight(parameter, observer, coded, tensor.quantization)
    scales = channel_scales(observer, coded.scales)
    return _quantise_bias(parameter, scales * place.attrs.encoding(place.point(filling.point)).scale)


def _quantise_bias(bias: torch.Tensor, scales: torch.Tensor) -> _Quantised:
    """Quantise a bias (out,) to 32-bit codes in the scale of the products to whose sums the convolution adds it."""
    scales, zero_points = scales.float(), torch.zeros_like(scales, dtype=torch.int32)
    limits = torch.iinfo(torch.int32)
    quantised = torch.ops.quantized_decomposed.quantize_per_channel(
        bias, scales, zero_points, 0, limits.min, limits.max, torch.int32
    )
    return _Quantised(quantised.numpy(), scales.numpy())


def _quantise_weight(weight: torch.Tensor, observer: Observer, coded: CodedWeight, quantization: dict) -> _Quantised:
    """Quantise a convolution's weight (out, in, 1, 1) in QNN's layout (1, 1, in, out)."""
    scales, quantised = coded.scales, coded.codes
    if quantised is None:
        quantised = codes(observer, weight, scales, torch.zeros_like(scales, dtype=torch.int32))
    quantised = quantised.permute(2, 3, 1, 0)
    if quantization.get(QCOM_BITWIDTH) == 4:
        quantised = quantised & 0x0F
    units, blocks = channel_scales(observer, scales), None
    if is_in_blocks(observer):
        blocks = (scales.reshape(len(units), -1) / units[:, None]).round().to(torch.uint8).numpy()
    return _Quantised(quantised.contiguous().numpy(), units.float().numpy(), blocks)


def _set_channel_encodings(tensor: OpTensor, quantised: _Quantised, channels: np.ndarray) -> None:
    encodings = np.zeros(len(channels), dtype=[("scale", np.float32), ("offset", np.int32)])
    encodings["scale"] = quantised.scales[channels]
    if quantised.blocks is None:
        tensor.quantization[QCOM_SCALE_OFFSET] = encodings
    else:
        tensor.quantization |= {
            QCOM_BLOCK_SCALE_OFFSET: encodings,
            QCOM_BLOCK_SCALES: quantised.blocks[channels].reshape(-1),
        }
