"""weights.safetensors holds the scales and the codes of weights that a recipe has coded by calibration data.

Its tensors are `<projection>.scales` and, where codes are not the nearest ones, `<projection>.codes`, as in
`CodedWeight`. Projections are named as in `layers.3.attention.q_proj`. Weights that are not in it are coded by their
min-max ranges.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hexport.decoder.sizes import sizes_of
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.provenance import atomic_path
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.recipe import EPILOGUE, Precision, Recipe, projections_of

AGAIN = "make it again with snakemake"
SCALES, CODES = ".scales", ".codes"
ORIGIN = "origin"


def searched(recipe: Recipe, n_layers: int) -> dict[str, dict[str, Precision]]:
    """Return the projections whose weights an algorithm codes, with their precisions, by place.

    A place is the number of a layer or `epilogue`. Places without such projections are left out.
    """
    places = *map(str, range(n_layers)), EPILOGUE
    asked = {
        place: {name: recipe.at(place, name) for name in projections_of(place) if recipe.at(place, name).is_searched}
        for place in places
    }
    return {place: precisions for place, precisions in asked.items() if precisions}


def full_name(place: str, projection: str) -> str:
    """Return the full name of a projection: `layers.3.attention.q_proj` of place `3`, and `epilogue.output`."""
    return f"{place}.{projection}" if place == EPILOGUE else f"layers.{place}.{projection}"


def save_weights(path: Path, weights: Mapping[str, CodedWeight], **origin: str) -> None:
    """Write weights by projection.

    `origin` is `recipe`, the recipe's name, and `checkpoint`, the SHA-256 of the float weights.
    """
    tensors = {name + SCALES: weight.scales for name, weight in weights.items()}
    tensors |= {name + CODES: weight.codes for name, weight in weights.items() if weight.codes is not None}
    with atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        # One entry: safetensors writes several in any order, and equal weights are to be equal files.
        save_file(tensors, temporary, {ORIGIN: json.dumps(origin, sort_keys=True)})
        temporary.chmod(mode)  # safetensors makes files that only their owner can read


def weights_in(path: Path) -> dict[str, CodedWeight]:
    """Return all weights of a file, by name, without checks."""
    tensors = load_file(path)
    names = [name.removesuffix(SCALES) for name in tensors if name.endswith(SCALES)]
    return {name: CodedWeight(tensors[name + SCALES], tensors.get(name + CODES)) for name in names}


class WeightsFile(Mapping[str, CodedWeight]):
    """A weights file maps projections to their coded weights, each of which is read when it is asked for.

    Opening it raises HexportError for a file that hexport did not write. A look-up raises HexportError for scales that
    are not all positive numbers, and KeyError for a projection that the file does not hold.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                origin = json.loads(file.metadata()[ORIGIN])
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                self.found = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
                self.recipe, self.checkpoint = origin["recipe"], origin["checkpoint"]
        except Exception as error:  # safetensors has no public exception type for a file it cannot read
            raise HexportError(f"{path}: no weights that hexport wrote: {error!r}; {AGAIN}") from None
        self.names = sorted({name.removesuffix(SCALES).removesuffix(CODES) for name in self.found})

    def __getitem__(self, projection: str) -> CodedWeight:
        if projection not in self.names:
            raise KeyError(projection)
        with safe_open(self.path, framework="pt") as file:
            scales = file.get_tensor(projection + SCALES)
            codes = file.get_tensor(projection + CODES) if projection + CODES in self.found else None
        if not ((scales > 0) & scales.isfinite()).all():
            raise HexportError(f"{self.path}: {projection}: scales are not all positive numbers; {AGAIN}")
        return CodedWeight(scales, codes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def weights_of(path: Path | None, checkpoint: Checkpoint, recipe: Recipe, recipe_name: str | None = None) -> Mapping:
    """Return the coded weights of a checkpoint and a recipe. `path` is None for a recipe that asks for no algorithm.

    Raises HexportError where there is no file and the recipe asks for one, and where the file is of another recipe or
    checkpoint. Without a `recipe_name`, the recipe's name is not compared.
    """
    asked = {
        full_name(place, name): (name, precision)
        for place, precisions in searched(recipe, checkpoint.config.n_layers).items()
        for name, precision in precisions.items()
    }
    if path is None:
        if asked:
            raise HexportError(f"the recipe codes the weights of {min(asked)} by calibration data; give --weights")
        return {}
    weights, sizes = WeightsFile(path), sizes_of(checkpoint.config)
    expected = {}
    for full, (name, precision) in asked.items():
        n_in, n_out = sizes.projections[name]
        blocks = [] if precision.block_size is None else [n_in // precision.block_size, 1, 1]
        expected[full + SCALES] = ("F32", [n_out, *blocks])
        if precision.gptq:
            expected[full + CODES] = ("I8", [n_out, n_in, 1, 1])
    for name in sorted(expected.keys() | weights.found.keys()):
        if expected.get(name) != weights.found.get(name):
            what = "is missing" if name not in weights.found else "is not what the recipe asks for"
            raise HexportError(f"{path}: {name} {what}; {AGAIN}")
    if recipe_name is not None and weights.recipe != recipe_name:
        raise HexportError(f"{path}: weights are of recipe {weights.recipe!r}, not {recipe_name!r}; {AGAIN}")
    if weights.checkpoint != (found := sha256(checkpoint.path)):
        raise HexportError(f"{path}: weights are of another checkpoint than {checkpoint.path}, {found}; {AGAIN}")
    return weights
