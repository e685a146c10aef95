"""This module builds recipes from their YAML content, and checks them: on their own, and for a decoder's sizes."""

import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain

from hexport.decoder.sizes import Sizes
from hexport.errors import HexportError
from hexport.quantization.recipe import (
    EPILOGUE,
    LAYER_PROJECTIONS,
    OUTPUT_PROJECTION,
    PRECISION_KEYS,
    PROLOGUE,
    TABLE,
    WEIGHT_KEYS,
    Override,
    Precision,
    Recipe,
    places_named,
    projections,
    projections_of,
)

# These points of a layer read or make hidden states, or read rotary angles or the mask.
SHARED_POINTS = (
    *("input_norm.rms_norm", "add", "add_1"),
    *("attention.q_rope.mul", "attention.k_rope.mul", "attention.add", "attention.where"),
)
PRODUCTS = ("attention.matmul", "attention.softmax", "attention.matmul_1")
BLOCK_CHANNELS = 32  # divides the input channels of weights in blocks: 48 of them in blocks of 16 give wrong results
# Block sizes and input channels of programs on which the emulator crashes, of all multiples of 64 up to 1,536.
CRASHING = frozenset((64, channels) for channels in (448, 512, 576, 832, 896, 1216))
HIDDEN_STATES = ("add", "add_1")  # the points behind attention and feed-forward
MAX_OVERRIDES = 1000


def recipe_from(spec: dict, name: str) -> Recipe:
    """Build a recipe from its YAML content, which must have passed the schema of config.yaml. `name` is for messages.

    Raises HexportError for settings that exclude each other, and for overrides that name nothing.
    """
    recipe, fault = _checked(json.dumps(spec))
    if fault is not None:
        raise HexportError(f"recipe {name}: {fault}")
    return recipe


@lru_cache(maxsize=1000)
def _checked(text: str) -> tuple[Recipe | None, str | None]:
    """Return the recipe of a spec's JSON text, and its first fault. Each SoC and mode asks for the same ones."""
    spec = json.loads(text)
    if len(spec.get("overrides", ())) > MAX_OVERRIDES:
        return None, f"{len(spec['overrides']):,} overrides, with those of its base, and {MAX_OVERRIDES:,} are the most"
    overrides = tuple(_override(entry) for entry in spec.get("overrides", ()))
    precision = Precision(**{key: spec[key] for key in PRECISION_KEYS if key in spec})
    others = {key: value for key, value in spec.items() if key not in (*PRECISION_KEYS, "overrides")}
    try:
        recipe = Recipe(precision=precision, overrides=overrides, **others)
    except TypeError as error:
        return None, str(error)
    faults = (
        *(_faults_of_tuning, _faults_of_projections, _faults_of_overrides),
        *(_faults_of_table, _faults_of_shared, _faults_of_percentiles, _faults_of_products),
    )
    return recipe, next(chain.from_iterable(faults_of(recipe) for faults_of in faults), None)


def check_sizes(recipe: Recipe, sizes: Sizes) -> None:
    """Raise HexportError where a decoder of these sizes cannot have the recipe. The sizes are those in its basis."""
    if recipe.r1 and sizes.sandwich_norms:
        raise HexportError(
            "r1: true turns hidden states, and norms behind attention and feed-forward scale what is added to them "
            "channel by channel; set r1: false in the recipe"
        )
    if recipe.widen and not sizes.sandwich_norms:
        raise HexportError(
            f"widen: {recipe.widen} is for models with norms behind attention and feed-forward; r1: true does more "
            "here; set widen: 0 in the recipe"
        )
    places = *map(str, range(sizes.n_layers)), EPILOGUE
    for override in recipe.overrides:
        if not any(fnmatch.fnmatchcase(place, override.layers) for place in (PROLOGUE, *places)):
            raise HexportError(
                f"an override names layers {override.layers!r}, and the model has 0 to {sizes.n_layers - 1}, "
                f"{PROLOGUE} and {EPILOGUE}; mend the recipe"
            )
    inputs = {(place, name): sizes.projections[name][0] for place in places for name in projections_of(place)}
    check_block_sizes(recipe, inputs)


def check_points(recipe: Recipe, points: Iterable[tuple[str, str]]) -> None:
    """Raise HexportError where an override names none of a decoder's points and projections, given as (place, name)."""
    known = list(points)
    for override in recipe.overrides:
        if not any(override.names(*point) for point in known):
            names = sorted({name for place, name in known if fnmatch.fnmatchcase(place, override.layers)})
            near = difflib.get_close_matches(override.points, names, 1)
            raise HexportError(
                f"an override names points {override.points!r} of layers {override.layers!r}, and there are none; "
                + (f"did you mean {near[0]}?" if near else "the activations of quant_attrs.json are named by points")
            )


def check_block_sizes(recipe: Recipe, inputs: dict[tuple[str, str], int]) -> None:
    """Raise HexportError where a projection cannot be cut into the recipe's blocks.

    `inputs` are the numbers of input channels of each projection, by (place, name). The HTP compiler (QNN 2.49) takes
    them all without a warning, and then makes programs that compute wrong results or crash.
    """
    for (place, projection), channels in inputs.items():
        size = recipe.at(place, projection).block_size
        if size is not None and not takes_blocks(channels, size):
            least = max(size, BLOCK_CHANNELS)
            why = f"they must be a multiple of {least}" if channels % least else "the emulator crashes on so many"
            raise HexportError(
                f"granularity per_block with block_size {size}: {projection} of layer {place} has {channels} input "
                f"channels; {why}; use per_channel there, or another block_size"
            )


def takes_blocks(channels: int, block_size: int) -> bool:
    """Return whether a projection with so many input channels can have blocks of this size."""
    return channels % max(block_size, BLOCK_CHANNELS) == 0 and (block_size, channels) not in CRASHING


def _override(entry: dict) -> Override:
    where = {key: entry[key] for key in ("layers", "points") if key in entry}
    return Override(**where, changes=tuple((key, value) for key, value in entry.items() if key not in where))


def _faults_of_overrides(recipe: Recipe) -> Iterator[str]:
    for override in recipe.overrides:
        if WEIGHT_KEYS & dict(override.changes).keys() and not _names_a_projection(override):
            yield (
                f"points {override.points!r} of layers {override.layers!r} name no projection; "
                f"known: {', '.join(LAYER_PROJECTIONS)}, and {OUTPUT_PROJECTION} in layer {EPILOGUE}"
            )
    for changes in {(), *(override.changes for override in recipe.overrides)}:
        yield from _faults_of_symmetric(replace(recipe.precision, **dict(changes)))


def _names_a_projection(override: Override) -> bool:
    """Return whether an override names a projection of the epilogue, or of the first layer that it reaches.

    One layer is enough, since projections are named alike in all layers.
    """
    layer = next((place for place in places_named(override.layers) if place not in (PROLOGUE, EPILOGUE)), None)
    places = [(EPILOGUE, OUTPUT_PROJECTION), *((layer, name) for name in LAYER_PROJECTIONS if layer is not None)]
    return any(override.names(*where) for where in places)


def _faults_of_percentiles(recipe: Recipe) -> Iterator[str]:
    """Yield a fault where logits or hidden states would be clipped.

    Logits that are clipped are equal, and hidden states live by their largest values (arXiv 2402.17762).
    """
    layers = {place for place, _ in projections(recipe)} - {EPILOGUE}
    clipped = (
        (EPILOGUE, OUTPUT_PROJECTION),
        (PROLOGUE, TABLE),
        (PROLOGUE, "mul"),
        *((place, point) for place in layers for point in HIDDEN_STATES),
    )
    if any(recipe.at(*where).observer == "percentile" for where in clipped):
        yield (
            "observer percentile clips logits or hidden states; give it in overrides, for points inside attention or "
            "feed_forward alone"
        )


def _faults_of_symmetric(precision: Precision) -> Iterator[str]:
    if precision.activation_symmetric and precision.activation_bits == 16:
        yield (
            "activation_symmetric is for activation_bits 8, and must be set beside these; "
            "QNN does not take every op with symmetric codes of 16 bits"
        )


def _faults_of_table(recipe: Recipe) -> Iterator[str]:
    if recipe.row_scales and recipe.precision.activation_bits == 8:
        yield "embedding_bits 8 is for activation_bits 16; with 8, the table has 8 bits anyway: set embedding_bits: 16"


def _faults_of_shared(recipe: Recipe) -> Iterator[str]:
    """Yield faults of points that all layers share (hidden states, rotary angles, the mask) where their bits differ."""
    shared = [(layer, point) for layer in recipe.layer_kinds for point in SHARED_POINTS]
    table = "mul" if recipe.row_scales else "embedding.embedding"
    shared += [(PROLOGUE, table), (PROLOGUE, "index"), (EPILOGUE, "norm.rms_norm")]
    for place, point in shared:
        if (bits := recipe.at(place, point).activation_bits) != (common := recipe.precision.activation_bits):
            yield (
                f"an override gives {point} of layer {place} activation_bits {bits}; what layers share has those of "
                f"the recipe, {common}; name modules inside attention or feed_forward in points"
            )


def _faults_of_products(recipe: Recipe) -> Iterator[str]:
    """Yield faults of 8-bit queries and probabilities: the HTP multiplies them with 8-bit keys and values alone."""
    for place, point in ((layer, point) for layer in recipe.layer_kinds for point in PRODUCTS):
        if recipe.kv_bits == 16 and (bits := recipe.at(place, point).activation_bits) != 16:
            yield f"{point} of layer {place}: activation_bits {bits} go with kv_bits 8, not 16"


def _faults_of_tuning(recipe: Recipe) -> Iterator[str]:
    of_layers = [projection for projection in projections(recipe) if projection[0] != EPILOGUE]
    if recipe.tune_scales and not any(recipe.at(*projection).gptq for projection in of_layers):
        yield "tune_scales fits the scales of codes that gptq has found, and no layer has gptq; set gptq: true"


def _faults_of_projections(recipe: Recipe) -> Iterator[str]:
    for place, projection in projections(recipe):
        for fault in _faults(recipe.at(place, projection), projection, recipe.kv_bits):
            yield f"{projection}: {fault}"
    if (bits := recipe.at(EPILOGUE, OUTPUT_PROJECTION).activation_bits) != recipe.logits_bits:
        yield (
            f"{OUTPUT_PROJECTION}: activation_bits {bits}, and the logits have {recipe.logits_bits}: end overrides "
            f"with {{layers: {EPILOGUE}, points: {OUTPUT_PROJECTION}, activation_bits: {recipe.logits_bits}}}"
        )


def _faults(precision: Precision, projection: str, kv_bits: int) -> Iterator[str]:
    if projection == "attention.v_proj" and precision.activation_bits < kv_bits:
        yield f"activation_bits {precision.activation_bits} go with kv_bits 8, not {kv_bits}: its output is cached"
    yield from _faults_of_symmetric(precision)
    if precision.granularity == "per_block":
        if precision.block_size is None:
            yield "granularity per_block needs a block_size"
        if precision.weight_bits != 4:
            yield f"granularity per_block is for weight_bits 4, not {precision.weight_bits}; choose per_channel"
        if precision.activation_bits != 16:
            yield "granularity per_block is for activation_bits 16; choose per_channel"
    if precision.granularity == "per_tensor" and precision.seq_mse:
        yield "seq_mse finds a range per channel, not per_tensor; choose per_channel, or seq_mse: 0"
    if precision.granularity == "per_tensor" and precision.gptq:
        yield "gptq fits a scale per channel, not per_tensor; choose per_channel, or gptq: false"
