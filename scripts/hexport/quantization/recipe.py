"""Recipes: which bit widths and granularity each part of the decoder gets. A recipe is data (recipes/*.yaml)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from executorch.backends.qualcomm.quantizer.quant_recipe import QuantGranularity, QuantRecipe
from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from torchao.quantization.pt2e import MinMaxObserver

from hexport.errors import HexportError

RECIPES = Path(__file__).parent / "recipes"
DTYPES = {"16a8w": QuantDtype.use_16a8w, "16a4w": QuantDtype.use_16a4w}
GRANULARITIES = {"per_channel": QuantGranularity.PER_CHANNEL}
# What an override can name: the projections of a layer, alike in all layers, and the output projection.
PROJECTIONS = (
    *(f"attention.{name}_proj" for name in "qkvo"),
    *(f"feed_forward.{name}_proj" for name in ("gate", "up", "down")),
    "output",
)


@dataclass(frozen=True, kw_only=True)
class Override:
    """Another bit width for the projections in whose name a regular expression is found: `down_proj`, `attention`."""

    modules: str
    dtype: str
    granularity: str = "per_channel"

    @property
    def projections(self) -> list[str]:
        return [name for name in PROJECTIONS if re.search(self.modules, name)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`dtype` names activation and weight bits (16a8w); `granularity` is that of the projections' weights.

    Later overrides win over earlier ones.
    """

    dtype: str
    granularity: str = "per_channel"
    kv_bits: int = 16
    overrides: tuple[Override, ...] = field(default=())


def recipe_from(spec: dict, name: str) -> Recipe:
    """Build a recipe from its YAML content. Raises HexportError on what this release cannot lower."""
    try:
        overrides = tuple(Override(**override) for override in spec.get("overrides", ()))
        recipe = Recipe(**{**spec, "overrides": overrides})
    except TypeError as error:
        raise HexportError(f"recipe {name}: {error}") from None
    for part in (recipe, *overrides):
        if part.dtype not in DTYPES:
            raise HexportError(f"recipe {name}: dtype {part.dtype!r} is not supported; supported: {', '.join(DTYPES)}")
        if part.granularity not in GRANULARITIES:
            allowed = ", ".join(GRANULARITIES)
            raise HexportError(
                f"recipe {name}: granularity {part.granularity!r} is not supported; supported: {allowed}"
            )
    for override in overrides:
        _check_modules(override, name)
    if recipe.kv_bits != 16:
        raise HexportError(f"recipe {name}: kv_bits {recipe.kv_bits} is not supported; supported: 16")
    return recipe


def _check_modules(override: Override, name: str) -> None:
    try:
        found = override.projections
    except re.error as error:
        raise HexportError(f"recipe {name}: modules {override.modules!r} is no regular expression: {error}") from None
    if not found:
        known = ", ".join(PROJECTIONS)
        raise HexportError(f"recipe {name}: modules {override.modules!r} names none; known: {known}")


def load_recipe(name: str) -> Recipe:
    """Read a built-in recipe."""
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise HexportError(f"recipe {name!r} is unknown; known: {known}")
    return recipe_from(yaml.safe_load(path.read_text()), name)


def quantizer(recipe: Recipe, soc: str = "SM8650") -> QnnQuantizer:
    """The annotator that carries the recipe out. The SoC only limits what may be annotated, never a scale."""
    rules = QuantRecipe(
        DTYPES[recipe.dtype], False, act_observer=MinMaxObserver, granularity=QuantGranularity.PER_TENSOR
    ).add_node_target(
        {torch.ops.aten.conv2d.default},
        DTYPES[recipe.dtype],
        False,
        act_observer=MinMaxObserver,
        granularity=GRANULARITIES[recipe.granularity],
    )
    for override in recipe.overrides:
        rules.add_regex(
            {rf"(^|\.){re.escape(projection)}$" for projection in override.projections},
            DTYPES[override.dtype],
            False,
            act_observer=MinMaxObserver,
            granularity=GRANULARITIES[override.granularity],
        )
    annotator = QnnQuantizer(soc_model=QcomChipset[soc])
    annotator.set_recipe(rules)
    return annotator
