"""This module checks that quant attrs belong to a checkpoint and a recipe, before any long work."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from math import isclose
from pathlib import Path

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import ATTEND, MASK, MASKED
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.quantization.quant_attrs import Encoding, Origin, QuantAttrs, read_quant_attrs
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION, PROLOGUE, Recipe
from hexport.quantization.weights_file import weights_of

AGAIN = "calibrate again"
LOGITS_POINT = f"{EPILOGUE}.{OUTPUT_PROJECTION}.conv2d"
LAYER_POINTS = ("k_cache", "v_cache", *(f"{projection}.conv2d" for projection in LAYER_PROJECTIONS))
OTHER_POINTS = (MASK, f"{PROLOGUE}.embedding.embedding", f"{EPILOGUE}.norm.rms_norm", LOGITS_POINT)
SAME_RANGE = 1e-3


def quant_attrs_of(
    path: Path, weights: Path | None, checkpoint: Checkpoint, recipe: Recipe, recipe_name: str | None = None
) -> QuantAttrs:
    """Read the quant attrs of a checkpoint and a recipe, with its weights.safetensors if it has one (`weights_of`).

    Raises HexportError where they are of another checkpoint or recipe, and where a point is missing or surplus, as far
    as layers show that: layers that are alike have the same points. Which points a template needs, `lower` checks.
    Without a `recipe_name`, the recipe's name is not compared.
    """
    attrs, origin = read_quant_attrs(path)
    config = checkpoint.config
    faults = _layers(attrs, config), _encodings(attrs, recipe), _points(attrs, config, recipe)
    for fault in chain(*faults, _origin(origin, checkpoint, recipe_name)):
        raise HexportError(f"{path}: quant attrs{fault}")
    return replace(attrs, weights=weights_of(weights, checkpoint, recipe, recipe_name))


def _origin(origin: Origin, checkpoint: Checkpoint, recipe_name: str | None) -> Iterator[str]:
    if recipe_name is not None and origin.recipe != recipe_name:
        yield f" are of recipe {origin.recipe!r}, not {recipe_name!r}; {AGAIN}"
    if (found := sha256(checkpoint.path)) != origin.checkpoint_sha256:
        yield (
            f" are of model {origin.model!r} with another checkpoint, checkpoint_sha256 {origin.checkpoint_sha256}; "
            f"{checkpoint.path} has {found}; {AGAIN}"
        )


def _layers(attrs: QuantAttrs, config: DecoderConfig) -> Iterator[str]:
    if len(attrs.kv) != config.n_layers:
        yield f" are of {len(attrs.kv)} layers, the checkpoint has {config.n_layers}; {AGAIN}"


def _encodings(attrs: QuantAttrs, recipe: Recipe) -> Iterator[str]:
    """Compare bits with the recipe, and encodings that are in the file twice with each other."""
    for i, layer in enumerate(attrs.kv):
        for name, encoding in layer.items():
            yield from _bits(f"kv[{i}].{name}", encoding, recipe.kv_bits, "kv_bits")
            yield from _same(f"kv[{i}].{name}", encoding, f"layers.{i}.{name}_cache", attrs)
    yield from _bits("logits", attrs.logits, recipe.logits_bits, "logits_bits")
    yield from _same("logits", attrs.logits, LOGITS_POINT, attrs)
    yield from _same("mask", attrs.mask, MASK, attrs)
    mask, low = attrs.mask, (attrs.mask.qmin - attrs.mask.zero_point) * attrs.mask.scale
    if mask.qmin == 0 and (mask.zero_point != mask.qmax or not isclose(low, MASKED, rel_tol=SAME_RANGE)):
        yield f": mask: it must reach from {MASKED:g} to {ATTEND:g}; {AGAIN}"


def _bits(where: str, encoding: Encoding, bits: int, key: str) -> Iterator[str]:
    if encoding.bits != bits:
        yield f": {where} has {encoding.bits} bits, and {key} of the recipe is {bits}; {AGAIN}"


def _same(where: str, encoding: Encoding, point: str, attrs: QuantAttrs) -> Iterator[str]:
    if point in attrs.activations and attrs.activations[point] != encoding:
        yield f": {where} has another encoding than point {point}; {AGAIN}"


def _points(attrs: QuantAttrs, config: DecoderConfig, recipe: Recipe) -> Iterator[str]:
    of_layer: dict[int, set[str]] = {i: set() for i in range(config.n_layers)}
    places = {f"layers.{i}": i for i in of_layer}
    for point in attrs.activations:
        place, name = _placed(point)
        if place in places:
            of_layer[places[place]].add(name)
        elif place not in (PROLOGUE, EPILOGUE) and point != MASK:
            yield f": point {point} is unknown; {AGAIN}"
    for point in (*OTHER_POINTS, *(f"layers.{i}.{name}" for i in of_layer for name in LAYER_POINTS)):
        if point not in attrs.activations:
            yield f": point {point} is missing; {AGAIN}"
    alike: dict[tuple, list[int]] = {}
    for i in of_layer:
        alike.setdefault((config.layer_signature(i), recipe.template_of(i)), []).append(i)
    for layers in alike.values():
        count = Counter(name for i in layers for name in of_layer[i])
        for name, n in count.items():
            if n < len(layers):
                missing = 2 * n >= len(layers)
                odd = next(i for i in layers if (name in of_layer[i]) != missing)
                yield f": point layers.{odd}.{name} is {'missing' if missing else 'unknown'}; {AGAIN}"


def _placed(point: str) -> tuple[str, str]:
    """Split a point's name into its place and the rest: `layers.3` and `attention.q_proj.conv2d`."""
    parts = point.split(".", 2 if point.startswith("layers.") else 1)
    return ".".join(parts[:-1]), parts[-1]
