"""This module estimates how large the programs of a model will be, before anything is built."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from hexport.build.artifacts import checkpoint_config_file
from hexport.config.checks import check_recipe
from hexport.config.settings import Config, Model, built_in_models
from hexport.decoder.config import load_config
from hexport.decoder.sizes import PUBLISHED, Sizes, sizes_of
from hexport.errors import HexportError
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.recipe import Recipe
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.modes import MODES
from hexport.targets.socs import HTP_ARCH
from hexport.targets.target import Target

LEFT_OUT = "the ops of each graph; those of SmolLM2-135M are 5 MB with AR length 1, and 10 MB more with 128"


def known_sizes(config: Config, model: Model) -> tuple[Sizes, str]:
    """Return a model's sizes, of its checkpoint where that is there, else as published; and in words, which they are.
    Raises HexportError where neither is known."""
    canonical = Path(checkpoint_config_file(config.copies, model.name))
    for file in (canonical, Path(model.checkpoint or "") / "config.json"):
        if file.is_file():
            return sizes_of(load_config(file)), f"sizes of {file}"
    if model.checkpoint is not None and model.checkpoint == built_in_models().get(model.name, {}).get("checkpoint"):
        return PUBLISHED[model.name], "sizes as published"
    wanted = checkpoint_config_file(config.artifacts, model.name)
    raise HexportError(f"models.{model.name}: its sizes are not known yet; run `snakemake {wanted}` first")


def program_sizes(config: Config, model: Model, name: str, sizes: Sizes) -> Iterator[tuple[str, int, str, int | str]]:
    """Yield SoC, context length, mode, and the estimated bytes with the recipe of this name, or why there can be no
    such program: for each SoC of the config, and each context length and mode of the model."""
    spec = config.recipes[name]
    known = [soc for soc in config.socs if soc in HTP_ARCH]
    for soc, context_len, mode in product(known, model.context_lens, model.modes):
        try:
            check_recipe(name, spec, soc)
        except HexportError as error:
            yield soc, context_len, mode, f"none: {error}"
        else:
            copies = Target(soc, emulator=False).copies(2 if MODES[mode].prefills else 1)
            yield soc, context_len, mode, copies * estimated_bytes(recipe_from(spec, name), sizes, context_len)


def most_copies(config: Config, model: Model) -> int:
    """Return how often a program of the model stores its weights, at most."""
    targets = [Target(soc, emulator=False) for soc in config.socs]
    return max(target.copies(2 if MODES[mode].prefills else 1) for target in targets for mode in model.modes)


def estimated_bytes(recipe: Recipe, sizes: Sizes, context_len: int) -> int:
    """Return the bytes of all parts of a decoder, each stored once. `sizes` are those of the checkpoint."""
    return sum(part_bytes(recipe, recipe.basis.of(sizes), context_len))
