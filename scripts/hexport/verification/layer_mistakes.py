"""This module lists mistakes in single layers. They are many, so they are tried near the layer where a
program departs.
"""

import functools

from hexport.decoder.config import DecoderConfig
from hexport.verification.mistakes import Change, Mistake, Parameters


def mistakes_in_layer(config: DecoderConfig, i: int) -> list[Mistake]:
    """Return what may have happened where layer `i` is the first whose values are not those of the checkpoint."""
    last, found = config.n_layers - 1, []

    def add(name: str, looks: str, change: Change) -> None:
        found.append(Mistake(name, looks, lambda _: change))

    for a, b in ((i, i + 1), (i - 1, i)):
        if a >= 0 and b <= last:
            swapped = {a: b, b: a}
            looks = f"layers {a} and {b} have each other's weights"
            add("layers swapped", looks, Change(config, source=lambda j, swapped=swapped: swapped.get(j, j)))
            for place, other in ((b, a), (a, b)):
                looks = f"layer {place} has the weights of layer {other}, which is there twice"
                twice = Change(config, source=lambda j, place=place, other=other: other if j == place else j)
                add("layer twice", looks, twice)
    for layer in (j for j in (i - 1, i) if 0 <= j <= last):
        for head in range(config.n_heads):
            change = Change(config, parameters=functools.partial(_without_head, config, layer, head))
            add("head missing", f"head {head} of layer {layer} is all zeros", change)
    return found


def _without_head(config: DecoderConfig, layer: int, head: int, i: int, parameters: Parameters) -> Parameters:
    if i != layer:
        return parameters
    output = parameters["attention.o_proj.weight"].clone()
    output[:, head * config.head_dim : (head + 1) * config.head_dim] = 0
    return parameters | {"attention.o_proj.weight": output}
