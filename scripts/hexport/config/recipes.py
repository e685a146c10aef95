"""This module resolves recipes by name, as plain data: the built-in ones and those that config.yaml bases on them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hexport.config.documents import read_yaml
from hexport.config.schema import cut, nearest

MAX_BASES = 50
BUILT_IN = Path(__file__).resolve().parents[1] / "quantization" / "recipes"


@cache
def built_in_recipes() -> dict[str, dict]:
    """Return the recipes that come with hexport by name, each as its file has it."""
    return {file.stem: read_yaml(file) for file in sorted(BUILT_IN.glob("*.yaml"))}


def recipe_errors(recipes: dict[str, dict]) -> Iterator[str]:
    """Yield what is wrong with the names in `recipes` of config.yaml."""
    known = built_in_recipes() | recipes
    for name, recipe in recipes.items():
        if name in built_in_recipes():
            yield f"recipes.{name}: is the name of a built-in recipe; choose another"
        elif (base := recipe["based_on"]) not in known:
            yield f"recipes.{name}.based_on: unknown recipe {cut(repr(base))}{nearest(base, known)}"
        elif name in (chain := _bases(name, recipes))[1:]:
            yield f"recipes.{name}.based_on: goes in a circle: {' -> '.join(chain[: chain.index(name, 1) + 1])}"
        elif len(chain) > MAX_BASES and chain[-1] not in chain[:-1]:
            yield f"recipes.{name}.based_on: more than {MAX_BASES} recipes, each based on the next; write it out"


def resolve_recipes(recipes: dict[str, dict]) -> dict[str, dict]:
    """Return the full content of every recipe, by name. Overrides of a recipe follow those of the one that it is based
    on.

    An override changes a recipe for the layers and points that two patterns name: with `{layers: epilogue, points:
    output, weight_bits: 8}`, the output projection has 8-bit weights. Later ones win.
    """
    known = built_in_recipes() | recipes
    return {name: _resolve(name, known) for name in known}


def _resolve(name: str, known: dict[str, dict]) -> dict:
    own = {key: value for key, value in known[name].items() if key != "based_on"}
    if "based_on" not in known[name]:
        return own
    base = _resolve(known[name]["based_on"], known)
    return base | own | {"overrides": [*base["overrides"], *own.get("overrides", [])]}


def _bases(name: str, recipes: dict[str, dict]) -> list[str]:
    """Return the recipe and what it is based on, up to a built-in recipe, an unknown one, the first repeated one, or
    one more than MAX_BASES."""
    chain = [name]
    while chain[-1] in recipes and chain[-1] not in chain[:-1] and len(chain) <= MAX_BASES:
        chain.append(recipes[chain[-1]]["based_on"])
    return chain
