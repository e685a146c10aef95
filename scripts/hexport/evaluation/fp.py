"""This module gives scores and logits of the float32 decoder, with which every other phase is compared."""

from collections.abc import Iterator, Sequence

import torch

from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.stream import KeptStates, stream
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.progress import Progress


def fp_scores(
    checkpoint: Checkpoint,
    context_len: int,
    sequences: list[list[int]],
    progress: Progress,
    kept: KeptStates | None = None,
) -> list[TokenScores]:
    """Score sequences of 2 to context_len + 1 tokens, each read from position 0. `kept` is as `stream` takes it."""
    scoring, decoders = Scoring(sequences), [FloatDecoder(checkpoint, context_len)]
    stream(decoders, checkpoint.config, scoring.inputs, progress, scoring.add, kept=[kept])
    return scoring.scores()


def fp_logits(
    checkpoint: Checkpoint, context_len: int, sequences: Sequence[Sequence[int]], progress: Progress
) -> Iterator[torch.Tensor]:
    """Yield the float32 logits (n, vocab) of each sequence of n tokens, one sequence after the other."""
    decoder, last_layer, hidden = FloatDecoder(checkpoint, context_len), checkpoint.config.n_layers - 1, []

    def keep(layer: int, of_pack: torch.Tensor) -> None:
        if layer == last_layer:
            hidden.append(of_pack)

    stream([decoder], checkpoint.config, sequences, progress, on_hidden=keep)
    epilogue = decoder.epilogue()
    for of_sequence in torch.cat(hidden, dim=1).split([len(tokens) for tokens in sequences], dim=1):
        yield epilogue(of_sequence)[0]
