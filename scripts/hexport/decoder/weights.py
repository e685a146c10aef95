"""This module loads weights of the canonical checkpoint into decoder modules.

The file is mapped into memory, and read one module at a time.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from hexport.decoder.basis import PUBLISHED, Basis
from hexport.decoder.config import DecoderConfig, load_config
from hexport.decoder.model import Epilogue, Layer, Prologue
from hexport.decoder.rotation import (
    check_rotation,
    rotated_epilogue,
    rotated_layer,
    rotated_prologue,
    with_rotated_values,
)
from hexport.decoder.tensors import Source, epilogue_sources, layer_sources, prologue_sources, tensor_shapes
from hexport.decoder.widening import SCALING_NORMS, Widening, check_widening, reach
from hexport.errors import HexportError


class Checkpoint:
    """A checkpoint reads a canonical checkpoint: config.json and model.safetensors in one folder.

    Names and shapes are checked at once, and tensors are read when asked for. Parameters are those of the same function
    in the given basis, and `config` has the sizes of that basis. Raises HexportError where a file is missing or does
    not fit, and where the model cannot have the basis.
    """

    def __init__(self, folder: Path, basis: Basis = PUBLISHED):
        published = load_config(folder / "config.json")
        self.config = basis.of(published)
        self.path, self.basis = folder / "model.safetensors", basis
        if basis.r1:
            check_rotation(published, str(folder / "config.json"))
        if basis.widen:
            check_widening(published, str(folder / "config.json"))
        try:
            with safe_open(self.path, framework="pt") as file:
                found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:  # safetensors has no public exception type for a file it cannot read
            raise HexportError(f"{self.path}: not a readable safetensors file: {error}") from None
        for name, shape in tensor_shapes(published).items():
            if found.get(name) != list(shape):
                raise HexportError(
                    f"{self.path}: tensor {name}: expected shape {list(shape)}, found {found.get(name, 'none')}"
                )

    def tensor(self, source: Source) -> torch.Tensor:
        """Return a float32 tensor.

        It holds its own map of the file, so the pages that were read leave memory along with it.
        """
        with safe_open(self.path, framework="pt") as file:
            if source.rows is None:
                return file.get_tensor(source.tensor).float()
            return file.get_slice(source.tensor)[slice(*source.rows)].float()

    def layer_parameters(self, layer: int) -> dict[str, torch.Tensor]:
        """Return the float32 parameters of one layer, by their names in `Layer` and in its shapes."""
        parameters = self._parameters(layer_sources(self.config, layer))
        # The attention scale goes into the last weights that queries pass before they are rotated.
        last = "attention.q_norm." if self.config.qk_norm else "attention.q_proj."
        for name in parameters:
            if name.startswith(last):
                # This is not done in place, as the tensors may be the file's memory map.
                parameters[name] = parameters[name] * self.config.attention_scale
        if self.basis.r2:
            parameters = with_rotated_values(parameters, self.config.head_dim)
        if self.basis.widen:
            parameters = self._widening.layer(parameters)
        return rotated_layer(parameters) if self.basis.r1 else parameters

    def prologue_parameters(self, rows: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
        """Return the float32 parameters of the prologue, by their names in `Prologue`.

        They have the rows of the whole vocabulary, or those from one up to another.
        """
        parameters, scale = self._parameters(prologue_sources(rows)), self.config.embedding_scale
        parameters = {name: tensor if scale == 1 else tensor * scale for name, tensor in parameters.items()}
        if self.basis.widen:
            parameters = self._widening.prologue(parameters)
        parameters = rotated_prologue(parameters) if self.basis.r1 else parameters
        return with_row_scales(parameters) if self.basis.row_scales else parameters

    def epilogue_parameters(self, rows: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
        """Return the float32 parameters of the epilogue, by their names in `Epilogue`.

        They have the rows of the whole vocabulary, or those from one up to another.
        """
        parameters = self._parameters(epilogue_sources(self.config, rows))
        if self.basis.widen:
            parameters = self._widening.epilogue(parameters)
        return rotated_epilogue(parameters) if self.basis.r1 else parameters

    @cached_property
    def _widening(self) -> Widening:
        norms = [f"{norm}.weight" for norm in SCALING_NORMS]
        sources = [layer_sources(self.config, layer) for layer in range(self.config.n_layers)]
        layers = [self._parameters({norm: of_layer[norm] for norm in norms}) for of_layer in sources]
        return Widening.of(reach(layers), self.basis.widen)

    def _parameters(self, sources: dict[str, Source]) -> dict[str, torch.Tensor]:
        """Return parameters of which norms include their offset and projections are convolutions."""
        parameters = {name: as_convolution(name, self.tensor(source)) for name, source in sources.items()}
        return {
            name: parameter + self.config.norm_offset if name.endswith("norm.weight") else parameter
            for name, parameter in parameters.items()
        }


def with_row_scales(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split the table of embeddings into a scale of each row and rows from -1 to 1.

    `row_scale.weight` (vocab_size, 1) is the largest magnitude of each row, or 1 for a row of zeros.
    """
    table = parameters["embedding.weight"]
    largest = torch.maximum(table.amax(dim=1, keepdim=True), -table.amin(dim=1, keepdim=True))
    scales = torch.where(largest > 0, largest, 1.0)
    return {"embedding.weight": table / scales, "row_scale.weight": scales}


def as_convolution(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return the weights of a map (out, in) as those of a 1x1 convolution (out, in, 1, 1), and others as they are."""
    return weight[:, :, None, None] if name.endswith(("proj.weight", "output.weight")) else weight


def with_parameters(module: nn.Module, parameters: dict[str, torch.Tensor]) -> nn.Module:
    """Assign all parameters of a module without a copy, and return it for inference, without gradients."""
    module.load_state_dict(parameters, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def load_layer(checkpoint: Checkpoint, layer: int, kind: type[Layer] = Layer) -> Layer:
    """Return layer number `layer` with its float32 weights."""
    with torch.device("meta"):
        module = kind(checkpoint.config)
    return with_parameters(module, checkpoint.layer_parameters(layer))


def layer_without_weights(config: DecoderConfig, kind: type[Layer]) -> Layer:
    """Return a layer whose parameters are zeros.

    Zeros take memory only where they are changed.
    """
    with torch.device("meta"):
        module = kind(config)
    return with_parameters(module, {name: torch.zeros(p.shape) for name, p in module.named_parameters()})


def load_prologue(
    checkpoint: Checkpoint, context_len: int, parameters: dict[str, torch.Tensor] | None = None
) -> Prologue:
    """Return the prologue with its float32 weights.

    `parameters`, for some rows of the table of embeddings, take the place of all. Token ids then count these rows.
    """
    parameters = parameters or checkpoint.prologue_parameters()
    with torch.device("meta"):
        module = Prologue(replace(checkpoint.config, vocab_size=len(parameters["embedding.weight"])), context_len)
    module.set_rope_tables(checkpoint.config, context_len)
    return with_parameters(module, parameters)


def load_epilogue(checkpoint: Checkpoint, rows: tuple[int, int] | None = None) -> Epilogue:
    """Return the epilogue with its float32 weights, for the whole vocabulary or rows from one up to another."""
    parameters = checkpoint.epilogue_parameters(rows)
    with torch.device("meta"):
        module = Epilogue(replace(checkpoint.config, vocab_size=len(parameters["output.weight"])))
    return with_parameters(module, parameters)
