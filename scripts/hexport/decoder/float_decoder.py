"""The float32 decoder, a layer in memory at a time."""

from collections.abc import Callable, Sequence

import torch

from hexport.decoder.device import device
from hexport.decoder.matrix_products import layer_by_products
from hexport.decoder.stream import State
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer, load_prologue


class FloatDecoder:
    """Its parts compute what those of `decoder.model` do, by matrix products and fused attention, which take the CPU
    half the time of 1x1 convolutions and of attention spelled out."""

    def __init__(self, checkpoint: Checkpoint, context_len: int):
        self.checkpoint, self.context_len = checkpoint, context_len

    def prologue(self) -> Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]:
        return load_prologue(self.checkpoint, self.context_len).to(device())

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        layer, config = load_layer(self.checkpoint, i).to(device()), self.checkpoint.config
        return lambda state: layer_by_products(layer, config, i, state.hidden, state.lengths, state.ropes)

    def epilogue(self) -> Callable[[torch.Tensor], torch.Tensor]:
        epilogue = load_epilogue(self.checkpoint).to(device())
        return lambda hidden: epilogue.output.of_rows(epilogue.norm(hidden))
