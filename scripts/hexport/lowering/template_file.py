"""Template files hold the templates of one AR length as JSON. They hold no code, and equal templates give equal bytes.

A file is

    {"format": 2, "prologue": …, "layers": […], "layer_of": [0, 0, 1], "epilogue": …}

`layers` has one template of each layer signature, and `layer_of` the number of each layer's among them. A template is

    {"tensors": […], "ops": […], "inputs": {"hidden": 3}, "outputs": [97], "codings": {…}, "constants": {…}}

in which ops name tensors by their numbers. Values for which JSON has no form are objects with one key: an array of
numbers {"array": [dtype, shape, base64 of the bytes]}, data that a parameter takes the place of {"blank": [dtype,
shape]}, a name in torch {"torch": "int8"}, a name of QNN {"qnn": ["Qnn_DataType_t", "QNN_DATATYPE_SFIXED_POINT_8"]},
and a tuple {"tuple": […]}.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np
import torch

from hexport.errors import HexportError
from hexport.lowering.recording import Op, OpTensor
from hexport.lowering.template import Filling, Template, Templates, blank, unique_tensors
from hexport.quantization.weights import ParameterCoding, observer_for

FORMAT = 2
DTYPES = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.float32)
TENSOR_KEYS = ("name", "kind", "dtype", "encoding", "quantization", "dims", "dynamic_dims", "data")


def write_templates(path: Path, templates: Templates) -> None:
    """Write templates to a path, such as the temporary one that `provenance.atomic_path` yields."""
    distinct = list({id(layer): layer for layer in templates.layers}.values())
    numbers = {id(layer): i for i, layer in enumerate(distinct)}
    content = {
        "format": FORMAT,
        "prologue": _template_as_json(templates.prologue),
        "layers": [_template_as_json(layer) for layer in distinct],
        "layer_of": [numbers[id(layer)] for layer in templates.layers],
        "epilogue": _template_as_json(templates.epilogue),
    }
    path.write_text(json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":")) + "\n")


def read_templates(path: Path) -> Templates:
    """Read templates. Raises HexportError for a file that `write_templates` of this version did not write."""
    try:
        content = json.loads(path.read_bytes())
        found = content["format"]
        if found == FORMAT:
            layers = [_template_from(each) for each in content["layers"]]
            return Templates(
                _template_from(content["prologue"]),
                [layers[number] for number in content["layer_of"]],
                _template_from(content["epilogue"]),
            )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HexportError(f"{path}: no templates ({type(error).__name__}: {error}); remove it") from None
    raise HexportError(f"{path}: templates of format {found!r}, and this version reads {FORMAT}; remove it")


def templates_by_ar_len(files: Iterable[Path]) -> dict[int, Templates]:
    """Read several files, and return their templates by AR length. Raises HexportError as `read_templates` does."""
    return {templates.ar_len: templates for templates in map(read_templates, files)}


def _template_as_json(template: Template) -> dict:
    tensors = unique_tensors(template.ops)
    numbers = {tensor: i for i, tensor in enumerate(tensors)}

    def op_as_json(op: Op) -> dict:
        io = {key: [numbers[tensor] for tensor in getattr(op, key)] for key in ("inputs", "outputs")}
        params = {key: _as_json(getattr(op, key)) for key in ("tensor_params", "scalar_params")}
        return {"name": op.name, "package": op.package, "type": op.type, **io, **params}

    def tensor_as_json(tensor: OpTensor) -> dict:
        row = {key: _as_json(getattr(tensor, key)) for key in TENSOR_KEYS}
        filling = template.fillings.get(tensor)
        if filling is None:
            return row
        if filling.parameter is not None:
            row["data"] = {"blank": [tensor.data.dtype.str, list(tensor.data.shape)]}
        channels = filling.channels if filling.channels is None else _ranges(filling.channels)
        return row | {"filling": asdict(filling) | {"channels": channels}}

    return {
        "tensors": [tensor_as_json(tensor) for tensor in tensors],
        "ops": [op_as_json(op) for op in template.ops],
        "inputs": {name: numbers[tensor] for name, tensor in template.inputs.items()},
        "outputs": [numbers[tensor] for tensor in template.outputs],
        "codings": {name: asdict(coding) for name, coding in template.codings.items()},
        "constants": {name: _as_json(tensor.numpy()) for name, tensor in template.constants.items()},
    }


def _template_from(content: dict) -> Template:
    tensors, fillings = [], {}
    for row in content["tensors"]:
        tensor = object.__new__(OpTensor)
        tensor.__dict__ = {key: _value(row[key]) for key in TENSOR_KEYS}
        tensors.append(tensor)
        if "filling" in row:
            channels = row["filling"]["channels"]
            fillings[tensor] = Filling(**row["filling"] | {"channels": channels and _channels(channels)})
    return Template(
        ops=[_op_from(op, tensors) for op in content["ops"]],
        fillings=fillings,
        inputs={name: tensors[number] for name, number in content["inputs"].items()},
        outputs=[tensors[number] for number in content["outputs"]],
        codings={name: _coding_from(coding) for name, coding in content["codings"].items()},
        constants={name: torch.from_numpy(np.asarray(_value(it))) for name, it in content["constants"].items()},
    )


def _op_from(op: dict, tensors: list[OpTensor]) -> Op:
    inputs, outputs = ([tensors[number] for number in op[io]] for io in ("inputs", "outputs"))
    params = (_value(op[kind]) for kind in ("tensor_params", "scalar_params"))
    return Op(op["name"], op["package"], op["type"], inputs, outputs, *params)


def _coding_from(coding: dict) -> ParameterCoding:
    block = coding["block_size"]
    known = ParameterCoding(**coding | {"block_size": block and tuple(block)})
    observer_for(known)  # it fails for one that is not known
    return known


def _ranges(channels: np.ndarray) -> list[list[int]]:
    """Return the first and the last channel of each run of channels that follow each other."""
    runs = np.split(channels, np.flatnonzero(np.diff(channels) != 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs]


def _channels(ranges: list[list[int]]) -> np.ndarray:
    return np.concatenate([np.arange(first, last + 1) for first, last in ranges])


def _as_json(value: Any) -> Any:
    match value:
        case np.ndarray() | np.generic():
            return {"array": [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]}
        case torch.dtype():
            return {"torch": str(value).removeprefix("torch.")}
        case tuple():
            return {"tuple": [_as_json(item) for item in value]}
        case list():
            return [_as_json(item) for item in value]
        case dict():
            return {key: _as_json(item) for key, item in value.items()}
        case None | bool() | int() | float() | str():
            return value
    if hasattr(qnn, type(value).__name__):
        return {"qnn": [type(value).__name__, value.name]}
    raise TypeError(f"templates: {type(value).__name__} is no value that a template file holds")


def _value(content: Any) -> Any:
    match content:
        case list():
            return [_value(item) for item in content]
        case {"array": [dtype, shape, encoded]}:
            array = np.frombuffer(base64.b64decode(encoded), np.dtype(dtype)).reshape(shape).copy()
            return array if shape else array[()]
        case {"blank": [dtype, shape]}:
            return blank(np.dtype(dtype), shape)
        case {"torch": str(name)}:
            return {str(dtype): dtype for dtype in DTYPES}[f"torch.{name}"]
        case {"tuple": items}:
            return tuple(_value(item) for item in items)
        case {"qnn": [kind, name]}:
            return getattr(qnn, kind).__members__[name]
        case dict():
            return {key: _value(item) for key, item in content.items()}
    return content
