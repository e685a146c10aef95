"""This module reads the table of embeddings and the head in blocks of rows, because they are large.

For Gemma 3's 262,144 words, each takes 1.2 GB in float32.
"""

import torch

from hexport.decoder.model import Prologue
from hexport.decoder.weights import Checkpoint, load_prologue
from hexport.progress import Progress

BLOCK_VALUES = 1 << 23  # a block has about so many weights
ALIGNMENT = 64  # blocks have a multiple of so many rows: sums of products are then, to the bit, those of the whole


def row_blocks(checkpoint: Checkpoint, alignment: int = ALIGNMENT) -> list[tuple[int, int]]:
    """Return the first row and the end of each block of the vocabulary's rows, in their order.

    All blocks but the last have a multiple of `alignment` rows.
    """
    config = checkpoint.config
    rows = alignment * max(1, BLOCK_VALUES // (config.hidden_size * alignment))
    return [(start, min(start + rows, config.vocab_size)) for start in range(0, config.vocab_size, rows)]


def prologue_of(
    checkpoint: Checkpoint, samples: list[list[int]], progress: Progress, part: str
) -> tuple[Prologue, list[list[int]]]:
    """Return a prologue with a small table, and the samples as rows of it. `part` names this work in the progress.

    The table holds the embeddings of the samples' tokens, and of each block of the whole table the rows of its smallest
    and its largest value: min-max observers see in it what they would see in the whole.
    """
    used = torch.tensor(sorted({token for sample in samples for token in sample}))
    of_tokens, extremes, blocks = [], [], row_blocks(checkpoint)
    for start, end in progress.steps(blocks, part, len(blocks), "block"):
        block = checkpoint.prologue_parameters((start, end))
        table = block["embedding.weight"] * block.get("row_scale.weight", 1)
        rows = torch.stack([table.argmin(), table.argmax()]) // table.shape[1]
        of_tokens.append({name: each[used[(used >= start) & (used < end)] - start] for name, each in block.items()})
        extremes.append({name: each[rows] for name, each in block.items()})
    row_of = {token: row for row, token in enumerate(used.tolist())}
    parameters = {name: torch.cat([rows[name] for rows in (*of_tokens, *extremes)]) for name in of_tokens[0]}
    return load_prologue(checkpoint, max(map(len, samples)), parameters), [[row_of[t] for t in s] for s in samples]
