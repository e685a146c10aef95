"""This module shows what a recipe gives every part of a decoder, as tables for people."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from hexport.decoder.sizes import Sizes
from hexport.quantization.recipe import (
    EPILOGUE,
    LAYER_PROJECTIONS,
    OUTPUT_PROJECTION,
    PROLOGUE,
    WEIGHT_KEYS,
    Override,
    Precision,
    Recipe,
)
from hexport.tables import printed_table

MEGABYTE = 1_000_000


def projection_table(recipe: Recipe, sizes: Sizes) -> Table:
    """Return a table of projections: a row for those that are coded alike in the same layers, and the epilogue's."""
    table = printed_table(("layers", "projections", "weights", "SeqMSE", "GPTQ", "activations", "observer"))
    for (layers, precision), projections in _alike(recipe, sizes.n_layers).items():
        table.add_row(", ".join(number_ranges(layers)), "\n".join(projections), *_projection_cells(precision))
    table.add_row(EPILOGUE, OUTPUT_PROJECTION, *_projection_cells(recipe.at(EPILOGUE, OUTPUT_PROJECTION)))
    return table


def other_table(recipe: Recipe) -> Table:
    """Return a table of everything in a recipe that is no projection."""
    table = printed_table(("part", "coded as"))
    embedding = recipe.at(PROLOGUE, "embedding.embedding")
    scales = "a scale per row" if recipe.row_scales else "per tensor"
    table.add_row("embedding", f"{_activations(embedding)}, {scales}")
    table.add_row("activations of other points", _activations(recipe.precision) + f", {recipe.precision.observer}")
    for override in recipe.overrides:
        if changes := _of_activations(override):
            table.add_row(f"  layers {override.layers}, points {override.points}", changes)
    table.add_row("KV cache", f"{recipe.kv_bits}-bit, around its middle code")
    table.add_row("logits", f"{recipe.logits_bits}-bit")
    table.add_row("masked softmax", "yes" if recipe.masked_softmax else "no")
    table.add_row("scales tuned", f"in {recipe.tune_scales} passes" if recipe.tune_scales else "no")
    for key in ("r1", "r2", "r3"):
        table.add_row(key.upper(), "yes" if getattr(recipe, key) else "no")
    table.add_row("channels added to hidden states", str(recipe.widen))
    return table


def size_table(sizes: Iterable[tuple[str, int, str, int | str]]) -> Table:
    """Return a table with a row for each tuple in `sizes`.

    A tuple holds the target, the context length, the mode and the bytes of the program, or the reason why there is
    none.
    """
    table = printed_table(("target", "context length", "mode", "estimated size of the program"))
    for target, context_len, mode, size in sizes:
        table.add_row(target, str(context_len), mode, size if isinstance(size, str) else f"{size / MEGABYTE:.1f} MB")
    return table


def _alike(recipe: Recipe, n_layers: int) -> dict[tuple[tuple[int, ...], Precision], list[str]]:
    """Group projections by the layers and the precision that they have there, in the order of the first layer."""
    rows: dict[tuple[tuple[int, ...], Precision], list[str]] = {}
    for projection in LAYER_PROJECTIONS:
        layers: dict[Precision, list[int]] = {}
        for i in range(n_layers):
            layers.setdefault(recipe.at(str(i), projection), []).append(i)
        for precision, numbers in layers.items():
            rows.setdefault((tuple(numbers), precision), []).append(projection)
    return rows


def _projection_cells(precision: Precision) -> tuple[str, ...]:
    granularity = {
        "per_tensor": "one scale",
        "per_channel": "a scale per channel",
        "per_block": f"a scale per block of {precision.block_size}",
    }[precision.granularity]
    seq_mse = f"{precision.seq_mse} ranges" if precision.seq_mse else "no"
    weights = f"{precision.weight_bits}-bit, {granularity}", seq_mse, "yes" if precision.gptq else "no"
    return *weights, _activations(precision), precision.observer


def _activations(precision: Precision) -> str:
    return f"{precision.activation_bits}-bit{', symmetric' if precision.activation_symmetric else ''}"


def _of_activations(override: Override) -> str:
    return ", ".join(f"{key} {str(value).lower()}" for key, value in override.changes if key not in WEIGHT_KEYS)


def number_ranges(numbers: Sequence[int]) -> list[str]:
    """Return ascending numbers as ranges, such as `0-3` and `7`."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
