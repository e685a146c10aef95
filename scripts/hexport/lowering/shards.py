"""Shards are what the parts of a decoder are dealt out to, each of them one context binary."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from hexport.errors import HexportError

CONTEXT_LIMIT = 2**32 - 2**27  # bytes: an HTP context addresses 4 GB, and some of these hold no weights


@dataclass(frozen=True)
class Shard:
    """A shard holds consecutive parts of a decoder, which are compiled to one context binary.

    Of 4 layers in 3 shards of about the same size, the first may be the prologue alone, `Shard(True, range(0, 0),
    False)`, the second `Shard(False, range(0, 3), False)`, and the third `Shard(False, range(3, 4), True)`.
    """

    prologue: bool
    layers: range
    epilogue: bool


def shards_of(part_bytes: list[int], n_shards: int) -> list[Shard]:
    """Deal out the prologue, the layers and the epilogue, with these bytes, to exactly `n_shards` shards.

    The largest shard is as small as it can be; of several such ways, the one with the least sum of squares is taken.
    Raises HexportError where there are fewer parts than shards.
    """
    n_parts, n_layers = len(part_bytes), len(part_bytes) - 2
    if n_shards > n_parts:
        raise HexportError(
            f"num_sharding {n_shards} is more than the {n_parts} parts of the model, which are its {n_layers} layers, "
            "the embedding and the output projection; use fewer"
        )
    cuts = _cuts(part_bytes, n_shards) if n_shards < n_parts else range(1, n_parts)
    return [
        Shard(start == 0, range(max(start, 1) - 1, min(stop, n_layers + 1) - 1), stop == n_parts)
        for start, stop in itertools.pairwise([0, *cuts, n_parts])
    ]


def check_addressable(stored_bytes: list[int], shards: list[Shard]) -> None:
    """Raise HexportError where a shard of parts that take these bytes is more than the HTP addresses."""
    largest = max(shard_sums(stored_bytes, shards))
    if largest <= CONTEXT_LIMIT:
        return
    counts = range(len(shards) + 1, len(stored_bytes) + 1)
    enough = (k for k in counts if max(shard_sums(stored_bytes, shards_of(stored_bytes, k))) <= CONTEXT_LIMIT)
    smallest = next(enough, None)
    raise HexportError(
        f"num_sharding {len(shards)} makes a shard of {largest / 2**30:.1f} GB, but an HTP context addresses 4 GB; "
        + (f"use {smallest} or more" if smallest else "no number of shards helps; use a recipe with fewer bits")
    )


def shard_sums(part_bytes: list[int], shards: list[Shard]) -> list[int]:
    """Return the bytes of each shard."""
    prologue, *layers, epilogue = part_bytes
    return [
        prologue * shard.prologue + sum(layers[i] for i in shard.layers) + epilogue * shard.epilogue for shard in shards
    ]


def _cuts(sizes: list[int], n_shards: int) -> list[int]:
    """Return the parts where the second shard begins, the third and so on."""
    sums = [0, *itertools.accumulate(sizes)]
    largest = _least(sums, n_shards, lambda rest, size: max(rest, size))[0]
    squares = _least(sums, n_shards, lambda rest, size: rest + size**2 if size <= largest else float("inf"))
    return squares[1][1:]


def _least(sums: list[int], n_shards: int, add: Callable[[float, int], float]) -> tuple[float, list[int]]:
    """Return the least cost of parting `sums` into shards, and where the shards begin.

    `add` adds the size of a shard to the cost of those before it.
    """
    n = len(sums) - 1
    best: list[tuple[float, list[int]]] = [(0, [])] + [(float("inf"), [])] * n
    for _ in range(n_shards):
        best = [
            min(
                ((add(best[start][0], sums[stop] - sums[start]), [*best[start][1], start]) for start in range(stop)),
                default=(float("inf"), []),
            )
            for stop in range(n + 1)
        ]
    return best[n]
