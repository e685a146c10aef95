"""This module fits a recipe of a model to a size or a perplexity, from the artifacts that quantisation reads."""

from dataclasses import dataclass, replace
from pathlib import Path

from hexport.build.program_size import most_copies
from hexport.config.settings import Config
from hexport.decoder.weights import Checkpoint
from hexport.fitting.files import Row
from hexport.fitting.fit import Fitted, Fitter
from hexport.fitting.measured import Laboratory, split
from hexport.fitting.model_curve import model_curve
from hexport.progress import Progress
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.tokens_file import read_tokens
from hexport.targets.socs import HTP_ARCH, MIN_ARCH_BLOCKS


@dataclass(frozen=True)
class ModelFit:
    """A model's fit is the recipe that was found, the rows of `Fitter.table`, and how many tokens judged it."""

    fitted: Fitted
    rows: list[Row]
    judged: int


def fit_model(
    config: Config,
    model: str,
    recipe_name: str,
    inputs: tuple[Path, Path],
    size: int | None,
    ratio: float | None,
    folder: Path,
    progress: Progress,
) -> ModelFit:
    """Fit overrides of a recipe to at most `size` bytes, or to a perplexity ratio of at most `ratio`, if size is None.

    inputs: the model's model.safetensors and tokens.json. folder: it keeps what is measured. Raises HexportError as
    `read_tokens`, `split` and the methods of `Fitter` do.
    """
    checkpoint, tokens = inputs
    spec = config.recipes[recipe_name]
    recipe, samples = recipe_from(spec, recipe_name), split(read_tokens(tokens).samples)
    canonical = Checkpoint(checkpoint.parent, replace(recipe.basis, row_scales=False))
    curve = model_curve(
        canonical,
        recipe,
        *samples,
        folder / "damage",
        progress,
        context_len=max(config.models[model].context_lens),
        copies=most_copies(config, config.models[model]),
        in_blocks=all(HTP_ARCH[soc] >= MIN_ARCH_BLOCKS for soc in config.socs),
    )
    laboratory = Laboratory(model, recipe_name, recipe, checkpoint.parent, *samples, folder, progress)
    fitter = Fitter(spec, recipe_name, canonical.config.n_layers, curve, laboratory)
    fitted = fitter.to_ratio(ratio, progress) if size is None else fitter.to_size(size, progress)
    return ModelFit(fitted, list(fitter.table()), sum(map(len, samples[1])))
