"""R1 and R2 of SpinQuant (arXiv 2405.16406) and QuaRot (arXiv 2404.00456): the decoder in other bases.

R1 turns hidden states. One token's may hold a value a thousand times as large as all others (arXiv 2402.17762). It
decides how coarse 16-bit codes are for every token. In a basis in which no channel stands out, it is spread over all of
them. An orthogonal change of basis passes RMSNorm, whose weights move into the projections behind it.

R2 turns the values of each KV head, between v_proj and o_proj: sums of values that attention makes turn with them.

The function stays the same, and the program gets no op more.
"""

import functools
import math

import torch

from hexport.decoder.config import DecoderConfig
from hexport.errors import HexportError

READERS = {
    "input_norm": tuple(f"attention.{name}_proj" for name in "qkv"),
    "pre_feed_forward_norm": ("feed_forward.gate_proj", "feed_forward.up_proj"),
}
WRITERS = ("attention.o_proj", "feed_forward.down_proj")

Parameters = dict[str, torch.Tensor]


def check_rotation(config: DecoderConfig, where: str) -> None:
    """Raise HexportError where hidden states cannot be rotated."""
    if config.sandwich_norms:
        raise HexportError(
            f"{where}: r1 rotates hidden states, and {config.family} scales what its layers add to them channel by "
            "channel; set r1: false in the recipe"
        )


@functools.cache
def rotation(n: int) -> torch.Tensor:
    """The discrete Hartley transform, float32 (n, n): orthogonal, symmetric, of any size, entries up to sqrt(2 / n)."""
    products = torch.outer(torch.arange(n), torch.arange(n)) % n
    angles = products.double() * (2 * math.pi / n)
    return ((angles.cos() + angles.sin()) / math.sqrt(n)).float()


def rotated_prologue(parameters: Parameters) -> Parameters:
    embedding = parameters["embedding.weight"]
    return {**parameters, "embedding.weight": embedding @ rotation(embedding.shape[1])}


def with_rotated_values(parameters: Parameters, head_dim: int) -> Parameters:
    """A layer whose KV heads put out values in another basis, in which o_proj reads them."""
    turned, matrix = dict(parameters), rotation(head_dim)
    for name in ("attention.v_proj.weight", "attention.v_proj.bias"):
        if name in parameters:
            of_heads = parameters[name].reshape(-1, head_dim, parameters[name][0].numel())
            turned[name] = (matrix @ of_heads).reshape(parameters[name].shape)
    weight = parameters["attention.o_proj.weight"]
    turned["attention.o_proj.weight"] = (weight.reshape(len(weight), -1, head_dim) @ matrix).reshape(weight.shape)
    return turned


def rotated_layer(parameters: Parameters) -> Parameters:
    """Norms of ones; what they scaled by is in the projections that read them."""
    rotated, matrix = dict(parameters), rotation(len(parameters["input_norm.weight"]))
    for norm, projections in READERS.items():
        for name in projections:
            rotated[f"{name}.weight"] = _reading(parameters[f"{name}.weight"], parameters[f"{norm}.weight"], matrix)
        rotated[f"{norm}.weight"] = torch.ones_like(parameters[f"{norm}.weight"])
    for name in WRITERS:
        weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        rotated[f"{name}.weight"] = (matrix @ weight[:, :, 0, 0])[:, :, None, None]
        if bias is not None:
            rotated[f"{name}.bias"] = matrix @ bias
    return rotated


def rotated_epilogue(parameters: Parameters) -> Parameters:
    norm = parameters["norm.weight"]
    output = _reading(parameters["output.weight"], norm, rotation(len(norm)))
    return {**parameters, "norm.weight": torch.ones_like(norm), "output.weight": output}


def _reading(weight: torch.Tensor, norm: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """A projection (out, in, 1, 1) behind a norm, of rotated hidden states."""
    return ((weight[:, :, 0, 0] * norm) @ matrix)[:, :, None, None]
