"""This module lists what each weight of a decoder may be coded as, and writes a choice for each as a recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hexport.decoder.sizes import Sizes
from hexport.quantization.part_sizes import table_bytes, weight_bytes
from hexport.quantization.recipe import EPILOGUE, PROLOGUE, TABLE, WEIGHT_KEYS, Precision, Recipe, projections_of
from hexport.quantization.recipe_checks import takes_blocks
from hexport.quantization.recipe_table import number_ranges

# A unit is a weight, by its place (a layer's number or epilogue) and its projection; or the table of embeddings.
Unit = tuple[str, str]
TABLE_UNIT: Unit = PROLOGUE, TABLE
BLOCK_SIZES = 64, 32, 16


def candidates(recipe: Recipe, sizes: Sizes, in_blocks: bool) -> dict[Unit, list[Precision]]:
    """Return the precisions that every weight may have: first that of the recipe, then what it may have instead.

    That is 8 bits per channel, without a search, and, if a program may have blocks (`in_blocks`), 4 bits in blocks of
    each size, searched as the recipe says. The table of embeddings has 8 bits, or those of hidden states: the
    `activation_bits` of its precision.
    """
    places = *map(str, range(sizes.n_layers)), EPILOGUE
    units = [(place, name) for place in places for name in projections_of(place)]
    found = {unit: _of_weight(recipe, unit, sizes.projections[unit[1]][0], in_blocks) for unit in units}
    if recipe.precision.activation_bits == 16:
        own, other = (8, 16) if recipe.row_scales else (16, 8)
        table = recipe.at(PROLOGUE, "embedding.embedding")
        found[TABLE_UNIT] = [replace(table, activation_bits=bits) for bits in (own, other)]
    return found


def _of_weight(recipe: Recipe, unit: Unit, channels: int, in_blocks: bool) -> list[Precision]:
    own = recipe.at(*unit)
    found = [own]
    if own.weight_bits < 8 or own.granularity != "per_channel":
        changes = {"weight_bits": 8, "granularity": "per_channel", "block_size": None, "seq_mse": 0, "gptq": False}
        found.append(replace(own, **changes))
    if in_blocks and own.activation_bits == 16:
        changes = {"weight_bits": 4, "granularity": "per_block"}
        changes |= {key: getattr(recipe.precision, key) for key in ("seq_mse", "gptq")}
        sizes = [size for size in BLOCK_SIZES if takes_blocks(channels, size)]
        found += [replace(own, block_size=size, **changes) for size in sizes]
    return list(dict.fromkeys(found))


def unit_bytes(sizes: Sizes, unit: Unit, precision: Precision) -> int:
    """Return the bytes of a unit in this precision, stored once."""
    if unit == TABLE_UNIT:
        return table_bytes(sizes, precision.activation_bits, precision.activation_bits == 8)
    return weight_bytes(sizes, unit[1], precision)


def coding_name(precision: Precision) -> str:
    """Name how a weight is coded, for people: `4-bit blocks of 32, SeqMSE 20, GPTQ`."""
    scales = f"blocks of {precision.block_size}" if precision.block_size else precision.granularity.replace("_", " ")
    seq_mse = f", SeqMSE {precision.seq_mse}" if precision.seq_mse else ""
    return f"{precision.weight_bits}-bit {scales}{seq_mse}{', GPTQ' if precision.gptq else ''}"


def as_recipe(recipe: Recipe, n_layers: int, chosen: Mapping[Unit, Precision]) -> dict[str, Any]:
    """Return the keys of a recipe that is based on `recipe` and gives each unit the precision that is chosen for it.

    They are `overrides`, such as `{"layers": "2[1-35]", "points": "attention.v_proj", …, "weight_bits": 8}`, and
    `embedding_bits` where these change. `tune_scales` is 0 where no layer has GPTQ's codes left, whose scales it tunes.
    """
    content: dict[str, Any] = {}
    if TABLE_UNIT in chosen and chosen[TABLE_UNIT].activation_bits != recipe.embedding_bits:
        content["embedding_bits"] = chosen[TABLE_UNIT].activation_bits
    of_layers = [precision for (place, _), precision in chosen.items() if place not in (PROLOGUE, EPILOGUE)]
    if recipe.tune_scales and not any(precision.gptq for precision in of_layers):
        content["tune_scales"] = 0
    alike: dict[tuple[str, tuple], list[str]] = {}
    for (place, name), precision in chosen.items():
        if (place, name) != TABLE_UNIT and (changes := _changes(recipe.at(place, name), precision)):
            alike.setdefault((name, changes), []).append(place)
    content["overrides"] = [
        {"layers": layers, "points": name, **dict(changes)}
        for (name, changes), places in alike.items()
        for layers in ([EPILOGUE] if places == [EPILOGUE] else layer_globs(map(int, places), n_layers))
    ]
    return content


def _changes(own: Precision, other: Precision) -> tuple[tuple[str, Any], ...]:
    values = {key: getattr(other, key) for key in sorted(WEIGHT_KEYS) if getattr(other, key) != getattr(own, key)}
    return tuple((key, value) for key, value in values.items() if value is not None)


def layer_globs(layers: Iterable[int], n_layers: int) -> list[str]:
    """Return globs that name these layers of a model with `n_layers`.

    All layers are `*`; otherwise there is a glob for each ten of them, such as `2[1-35]` for layers 21, 22, 23 and 25.
    """
    numbers = sorted(layers)
    if len(numbers) == n_layers:
        return ["*"]
    of_ten: dict[int, list[int]] = {}
    for number in numbers:
        of_ten.setdefault(number // 10, []).append(number % 10)
    return [f"{ten or ''}{_digits(digits)}" for ten, digits in of_ten.items()]


def _digits(digits: list[int]) -> str:
    """Write one digit as it is, and several ascending ones as a character class such as `[0-35]`."""
    if len(digits) == 1:
        return str(digits[0])
    return f"[{''.join(number_ranges(digits))}]"
