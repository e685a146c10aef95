"""This module rotates a decoder into other bases, by R1 and R2.

They are from SpinQuant (arXiv 2405.16406) and QuaRot (arXiv 2404.00456).

R1 rotates hidden states. One token's may hold a value a thousand times as large as all others (arXiv 2402.17762), which
decides how coarse 16-bit codes are for every token. In a basis in which no channel stands out, it is spread over all of
them. An orthogonal change of basis passes RMSNorm, once the norm's weights are moved into the projections behind it.

R2 rotates the values of each KV head, between v_proj and o_proj. Attention's sums of values rotate with them.

The function stays the same, and the program gets no further op.
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
    """Check that hidden states can be rotated. Raises HexportError, which begins with `where`, where they cannot."""
    if config.sandwich_norms:
        raise HexportError(
            f"{where}: r1 rotates hidden states, and {config.family} scales what its layers add to them channel by "
            "channel; set r1: false in the recipe"
        )


@functools.cache
def rotation(n: int) -> torch.Tensor:
    """Return the discrete Hartley transform, float32 (n, n).

    It is orthogonal and symmetric, exists for any n, and its entries are at most sqrt(2 / n).
    """
    numbers = torch.arange(n, device="cpu")  # where modules are made without memory, too
    products = torch.outer(numbers, numbers) % n
    angles = products.double() * (2 * math.pi / n)
    return ((angles.cos() + angles.sin()) / math.sqrt(n)).float()


def rotated_prologue(parameters: Parameters) -> Parameters:
    """Return the prologue's parameters with rotated embeddings."""
    embedding = parameters["embedding.weight"]
    return {**parameters, "embedding.weight": embedding @ rotation(embedding.shape[1])}


def with_rotated_values(parameters: Parameters, head_dim: int) -> Parameters:
    """Return a layer's parameters in which v_proj puts out values in another basis and o_proj reads them in it."""
    turned, matrix = dict(parameters), rotation(head_dim)
    for name in ("attention.v_proj.weight", "attention.v_proj.bias"):
        if name in parameters:
            of_heads = parameters[name].reshape(-1, head_dim, parameters[name][0].numel())
            turned[name] = (matrix @ of_heads).reshape(parameters[name].shape)
    weight = parameters["attention.o_proj.weight"]
    turned["attention.o_proj.weight"] = (weight.reshape(len(weight), -1, head_dim) @ matrix).reshape(weight.shape)
    return turned


def rotated_layer(parameters: Parameters) -> Parameters:
    """Return a layer's parameters for rotated hidden states.

    The norms become ones, as the projections that read them take over their weights.
    """
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
    """Return the epilogue's parameters for rotated hidden states. Its norm becomes ones."""
    norm = parameters["norm.weight"]
    output = _reading(parameters["output.weight"], norm, rotation(len(norm)))
    return {**parameters, "norm.weight": torch.ones_like(norm), "output.weight": output}


def _reading(weight: torch.Tensor, norm: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return the weight (out, in, 1, 1) of a projection behind a norm, for rotated hidden states."""
    return ((weight[:, :, 0, 0] * norm) @ matrix)[:, :, None, None]
