"""Layer templates hold the QNN ops of one prologue, layer or epilogue, with holes for encodings and weights."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from hexport.lowering.recording import Op, OpTensor
from hexport.quantization.recipe import EPILOGUE, PROLOGUE
from hexport.quantization.weights import ParameterCoding


@dataclass(frozen=True)
class Filling:
    """A filling says what a quantised tensor of a template stands for.

    point: the quantisation point whose encoding it carries; None where the parameter itself decides.
    parameter: the parameter that it holds, if it is static data.
    channels: the output channels that it holds, where the parameter is quantised per channel.
    bias_of: the weight beside which the parameter is a convolution's bias. Its scale is then that of `point`, the
        convolution's input, times that of the weight, channel by channel.
    of_scale: the tensor's scale, in units of that of `point`.
    """

    point: str | None = None
    parameter: str | None = None
    channels: np.ndarray | None = None
    bias_of: str | None = None
    of_scale: float = 1.0

    @property
    def decides(self) -> bool:
        """Return whether the parameter, and no point, decides the scale."""
        return self.parameter is not None and (self.point is None or self.bias_of is not None)


@dataclass
class Template:
    """A template holds recorded ops and what fills their tensors.

    inputs: tensors by name.
    outputs: tensors in the order of the graph's outputs.
    codings: how each parameter is quantised whose own values decide its scale.
    constants: quantised tensors that are the same at every place, by name: numbers in the decoder's code, rope tables.

    Tensors that hold a parameter have `blank` data, of which only the type and the shape say something.
    """

    ops: list[Op]
    fillings: dict[OpTensor, Filling]
    inputs: dict[str, OpTensor]
    outputs: list[OpTensor]
    codings: dict[str, ParameterCoding]
    constants: dict[str, torch.Tensor]


@dataclass
class Templates:
    """Templates hold the templates of a decoder, for one AR length, context length and HTP architecture."""

    prologue: Template
    layers: list[Template]  # one of each layer; layers that are alike share one object
    epilogue: Template

    @property
    def by_place(self) -> dict[str, Template]:
        """Return the template of each place of the decoder, such as `layers.3`."""
        layers = {f"layers.{i}": template for i, template in enumerate(self.layers)}
        return {PROLOGUE: self.prologue, EPILOGUE: self.epilogue, **layers}

    @property
    def ar_len(self) -> int:
        """Return how many tokens a call of their graph reads."""
        return self.prologue.inputs["tokens"].dims[-1]


def blank(dtype: np.dtype, shape: list[int]) -> np.ndarray:
    """Return an array of this type and shape that takes no memory. It cannot be written to."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def resize(template: Template, old: int, new: int) -> None:
    """Change a template's dimensions of size `old` to size `new`, in tensors and in the channels that fill them."""
    for tensor in unique_tensors(template.ops):
        if old in tensor.dims:
            tensor.dims = [new if size == old else size for size in tensor.dims]
            if tensor.data is not None:
                tensor.data = blank(tensor.data.dtype, [new if size == old else size for size in tensor.data.shape])
    for tensor, filling in template.fillings.items():
        if filling.channels is not None and len(filling.channels) == old:
            template.fillings[tensor] = replace(filling, channels=np.arange(new))


def unique_tensors(ops: list[Op]) -> list[OpTensor]:
    """Return each tensor of these ops once, in the order of their first use."""
    return list(dict.fromkeys(tensor for op in ops for tensor in (*op.inputs, *op.outputs)))
