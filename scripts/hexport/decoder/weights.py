"""Weights of the canonical checkpoint, streamed into decoder modules: memory-mapped, one module at a time."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from hexport.decoder.config import DecoderConfig, load_config
from hexport.decoder.model import Decoder, Epilogue, Layer, Prologue
from hexport.errors import HexportError

# Parameter of a decoder layer -> tensor of model.layers.<i> in the checkpoint.
LAYER_TENSORS = {
    "input_norm.weight": "input_layernorm.weight",
    "attention.q_proj.weight": "self_attn.q_proj.weight",
    "attention.k_proj.weight": "self_attn.k_proj.weight",
    "attention.v_proj.weight": "self_attn.v_proj.weight",
    "attention.o_proj.weight": "self_attn.o_proj.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate_proj.weight": "mlp.gate_proj.weight",
    "feed_forward.up_proj.weight": "mlp.up_proj.weight",
    "feed_forward.down_proj.weight": "mlp.down_proj.weight",
}
PROLOGUE_TENSORS = {"embedding.weight": "model.embed_tokens.weight"}


class Checkpoint:
    """A canonical checkpoint: config.json and model.safetensors in one folder.

    Names and shapes are checked at once, tensors are read when asked for.
    """

    def __init__(self, folder: Path):
        self.config = load_config(folder / "config.json")
        self.path = folder / "model.safetensors"
        try:
            with safe_open(self.path, framework="pt") as file:
                found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:  # safetensors has no public exception type for a file it cannot read
            raise HexportError(f"{self.path}: not a readable safetensors file: {error}") from None
        for name, shape in tensor_shapes(self.config).items():
            if found.get(name) != shape:
                raise HexportError(
                    f"{self.path}: tensor {name}: expected shape {shape}, found {found.get(name, 'none')}"
                )

    def tensor(self, name: str) -> torch.Tensor:
        """A float32 tensor. It holds its own map of the file: pages that were read leave memory along with it."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name).float()

    def layer_parameters(self, layer: int) -> dict[str, torch.Tensor]:
        """Float32 parameters of one layer by their names in `Layer`, in the decoder's shapes."""
        parameters = self._parameters(layer_tensors(layer))
        # Not in place: the tensors may be the file's memory map.
        parameters["attention.q_proj.weight"] = parameters["attention.q_proj.weight"] * self.config.attention_scale
        return parameters

    def prologue_parameters(self) -> dict[str, torch.Tensor]:
        return self._parameters(PROLOGUE_TENSORS)

    def epilogue_parameters(self) -> dict[str, torch.Tensor]:
        return self._parameters(epilogue_tensors(self.config))

    def _parameters(self, tensors: dict[str, str]) -> dict[str, torch.Tensor]:
        return {name: as_convolution(name, self.tensor(source)) for name, source in tensors.items()}


def layer_tensors(layer: int) -> dict[str, str]:
    return {name: f"model.layers.{layer}.{source}" for name, source in LAYER_TENSORS.items()}


def epilogue_tensors(config: DecoderConfig) -> dict[str, str]:
    head = "model.embed_tokens.weight" if config.tied_head else "lm_head.weight"
    return {"norm.weight": "model.norm.weight", "output.weight": head}


def tensor_shapes(config: DecoderConfig) -> dict[str, list[int]]:
    """Name in the checkpoint -> shape of every tensor that the decoder reads."""
    with torch.device("meta"):
        layer, prologue, epilogue = Layer(config), Prologue(config, 1), Epilogue(config)
    modules = [(layer, layer_tensors(i)) for i in range(config.n_layers)]
    modules += [(prologue, PROLOGUE_TENSORS), (epilogue, epilogue_tensors(config))]
    return {
        sources[name]: list(parameter.shape[:2])  # a 1x1 convolution is a matrix in the checkpoint
        for module, sources in modules
        for name, parameter in module.named_parameters()
    }


def as_convolution(name: str, weight: torch.Tensor) -> torch.Tensor:
    """(out, in) -> (out, in, 1, 1) for the maps that the decoder computes as 1x1 convolutions."""
    return weight[:, :, None, None] if name.endswith(("proj.weight", "output.weight")) else weight


def with_parameters(module: nn.Module, parameters: dict[str, torch.Tensor]) -> nn.Module:
    """Assign parameters without a copy."""
    module.load_state_dict(parameters, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def load_layer(checkpoint: Checkpoint, layer: int) -> Layer:
    with torch.device("meta"):
        module = Layer(checkpoint.config)
    return with_parameters(module, checkpoint.layer_parameters(layer))


def load_prologue(checkpoint: Checkpoint, context_len: int) -> Prologue:
    with torch.device("meta"):
        module = Prologue(checkpoint.config, context_len)
    module.set_rope_table(checkpoint.config, context_len)
    return with_parameters(module, checkpoint.prologue_parameters())


def load_epilogue(checkpoint: Checkpoint) -> Epilogue:
    with torch.device("meta"):
        module = Epilogue(checkpoint.config)
    return with_parameters(module, checkpoint.epilogue_parameters())


def load_decoder(checkpoint: Checkpoint, context_len: int) -> Decoder:
    """The whole model in memory, float32."""
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config, context_len)
    decoder.prologue = load_prologue(checkpoint, context_len)
    decoder.epilogue = load_epilogue(checkpoint)
    for i in range(checkpoint.config.n_layers):
        decoder.layers[i] = load_layer(checkpoint, i)
    return decoder.eval().requires_grad_(False)
