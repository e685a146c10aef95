"""This module codes all weights, with the algorithms that a recipe asks for, one after the other."""

from pathlib import Path

from hexport.decoder.weights import Checkpoint
from hexport.progress import Progress
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.recipe import Recipe
from hexport.quantization.scale_tuning import tuned_scales
from hexport.quantization.weight_search import search


def coded_weights(
    checkpoint: Checkpoint, samples: list[list[int]], recipe: Recipe, progress: Progress, folder: Path
) -> dict[str, CodedWeight]:
    """Return the weights for which the recipe asks for an algorithm, by projection (`epilogue.output`).

    Each sample of token ids is read from position 0. `folder` keeps what is done, for a run that was killed. Raises
    HexportError as `search` and `tuned_scales` do.
    """
    coded = search(checkpoint, samples, recipe, progress, folder)
    if not recipe.tune_scales:
        return coded
    return tuned_scales(checkpoint, samples, coded, recipe.tune_scales, progress, folder)
