"""The float32 decoder, layer by layer: what every other phase is compared with."""

from collections.abc import Callable, Iterator, Sequence

import torch

from hexport.decoder.device import device
from hexport.decoder.matrix_products import layer_by_products
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer, load_prologue
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.evaluation.stream import State, stream
from hexport.progress import Progress


def fp_scores(
    checkpoint: Checkpoint, context_len: int, sequences: list[list[int]], progress: Progress
) -> list[TokenScores]:
    """Score sequences of 2 to context_len + 1 tokens, each read from position 0."""
    scoring = Scoring(sequences)
    stream([FloatDecoder(checkpoint, context_len)], checkpoint.config, scoring.inputs, progress, scoring.add)
    return scoring.scores()


def fp_logits(
    checkpoint: Checkpoint, context_len: int, sequences: Sequence[Sequence[int]], progress: Progress
) -> Iterator[torch.Tensor]:
    """Float32 logits (n, vocab) of each sequence of n tokens, one sequence after the other."""
    decoder, last_layer, hidden = FloatDecoder(checkpoint, context_len), checkpoint.config.n_layers - 1, []

    def keep(layer: int, of_pack: torch.Tensor) -> None:
        if layer == last_layer:
            hidden.append(of_pack)

    stream([decoder], checkpoint.config, sequences, progress, on_hidden=keep)
    epilogue = decoder.epilogue()
    for of_sequence in torch.cat(hidden, dim=1).split([len(tokens) for tokens in sequences], dim=1):
        yield epilogue(of_sequence)[0]


class FloatDecoder:
    """Its parts compute what those of `decoder.model` do, by matrix products and fused attention, which take the CPU
    half the time of 1x1 convolutions and of attention spelled out."""

    def __init__(self, checkpoint: Checkpoint, context_len: int):
        self.checkpoint, self.context_len = checkpoint, context_len

    def prologue(self) -> Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]:
        return load_prologue(self.checkpoint, self.context_len).to(device())

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        layer, config = load_layer(self.checkpoint, i).to(device()), self.checkpoint.config
        return lambda state: layer_by_products(layer, config, i, state.hidden, state.pack.lengths, state.ropes)

    def epilogue(self) -> Callable[[torch.Tensor], torch.Tensor]:
        epilogue = load_epilogue(self.checkpoint).to(device())
        return lambda hidden: epilogue.output.of_rows(epilogue.norm(hidden))
