"""This module computes the float32 decoder with one layer in memory at a time."""

from collections.abc import Callable, Sequence

import torch

from hexport.decoder.device import device
from hexport.decoder.matrix_products import layer_by_products
from hexport.decoder.stream import State
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer, load_prologue


class FloatDecoder:
    """A float decoder is a `StreamedDecoder` whose parts compute what those of `decoder.model` do.

    It uses matrix products and fused attention (see `matrix_products.py`).
    """

    def __init__(self, checkpoint: Checkpoint, context_len: int):
        self.checkpoint, self.context_len = checkpoint, context_len

    def prologue(self) -> Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]:
        """Load and return the prologue."""
        return load_prologue(self.checkpoint, self.context_len).to(device())

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        """Load layer number `i`, and return what computes its next hidden states, float32 (1, n, hidden_size)."""
        layer, config = load_layer(self.checkpoint, i).to(device()), self.checkpoint.config
        return lambda state: layer_by_products(layer, config, i, state.hidden, state)

    def epilogue(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Load the epilogue, and return what computes logits, float32 (1, n, vocab_size), of hidden states."""
        epilogue = load_epilogue(self.checkpoint).to(device())
        return lambda hidden: epilogue.output.of_rows(epilogue.norm(hidden))
