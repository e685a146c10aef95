"""This module makes the curve of a model, from the bytes and the measured damage of every choice for every weight."""

from pathlib import Path

from hexport.decoder.sizes import sizes_of
from hexport.decoder.weights import Checkpoint
from hexport.fitting.choices import candidates, unit_bytes
from hexport.fitting.curve import Choice, Curve
from hexport.fitting.damage import damages
from hexport.progress import Progress
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.recipe import Recipe
from hexport.quantization.recipe_checks import check_sizes


def model_curve(
    checkpoint: Checkpoint,
    recipe: Recipe,
    coding: list[list[int]],
    judging: list[list[int]],
    folder: Path,
    progress: Progress,
    *,
    context_len: int,
    copies: int,
    in_blocks: bool,
) -> Curve:
    """Return the curve of a model. Its choices start from what `recipe` gives each weight.

    context_len: tokens that a program can hold at once.
    copies: how often a program stores its weights.
    in_blocks: whether it may have weights in blocks.

    The other arguments are as of `damages`. Raises HexportError as `damages` and `check_sizes` do.
    """
    sizes = sizes_of(checkpoint.config)
    check_sizes(recipe, sizes)
    units = candidates(recipe, sizes, in_blocks)
    found = damages(checkpoint, units, coding, judging, folder, progress)
    choices = {
        unit: [Choice(each, copies * unit_bytes(sizes, unit, each), found[unit][each]) for each in precisions]
        for unit, precisions in units.items()
    }
    # The first choice of each unit is what the recipe has.
    as_it_is = sum(of_unit[0].n_bytes for of_unit in choices.values())
    return Curve(choices, copies * sum(part_bytes(recipe, sizes, context_len)) - as_it_is)
