"""The curve of a model: every weight's choices, with the bytes that they take and the damage that was measured."""

from pathlib import Path

from hexport.decoder.sizes import sizes_of
from hexport.decoder.weights import Checkpoint
from hexport.fitting.choices import candidates, unit_bytes
from hexport.fitting.curve import Choice, Curve
from hexport.fitting.damage import damages
from hexport.progress import Progress
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.recipe import Recipe, check_sizes


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
    """`copies`: how often a program stores its weights. `in_blocks`: whether it may have weights in blocks. The others
    are as of `damages`, and `recipe` is what the choices start from."""
    sizes = sizes_of(checkpoint.config)
    check_sizes(recipe, sizes)
    units = candidates(recipe, sizes, in_blocks)
    found = damages(checkpoint, units, coding, judging, folder, progress)
    choices = {
        unit: [Choice(each, copies * unit_bytes(sizes, unit, each), found[unit][each]) for each in precisions]
        for unit, precisions in units.items()
    }
    # Of each, the first one is what the recipe has.
    as_it_is = sum(of_unit[0].n_bytes for of_unit in choices.values())
    return Curve(choices, copies * sum(part_bytes(recipe, sizes, context_len)) - as_it_is)
