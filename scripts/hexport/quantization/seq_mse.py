"""SeqMSE: per output channel, the weight range whose codes change a projection's output least.

A min-max range lets one large weight coarsen the steps of all others. As in AIMET (`aimet_torch.seq_mse`) and in
ExecuTorch (backends/qualcomm/_passes/seq_mse.py), candidates are the ranges that are 1/n, 2/n … n/n as wide, and the
best is that of the least squared error on calibration data. These run the projection for every candidate. But the sum
over tokens of ((w - w_q) x)² is (w - w_q) G (w - w_q)ᵀ, where G sums x xᵀ: one pass over the data does for all
candidates, and nothing grows with the tokens. The inputs x are those of the float model.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hexport.code_digest import code_digest
from hexport.decoder.device import device
from hexport.decoder.masks import causal_masks
from hexport.decoder.model import UncachedLayer, rope_of, to_channels
from hexport.decoder.sizes import sizes_of
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer
from hexport.file_hashes import sha256
from hexport.progress import Progress
from hexport.provenance import atomic_path, damage, manifest_path, write_manifest
from hexport.quantization.calibration import (
    EXPORT_LENGTH,
    State,
    check_samples,
    prepare_epilogue,
    prepare_layer,
    token_inputs,
)
from hexport.quantization.costs import float_layer_s, search_s, table_s
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION, Precision, Recipe
from hexport.quantization.vocabulary import ALIGNMENT, prologue_of, row_blocks
from hexport.quantization.weights import Observer, narrowed

# Projections that read what another one reads: its products serve them too.
SAME_INPUT = {
    "attention.k_proj": "attention.q_proj",
    "attention.v_proj": "attention.q_proj",
    "feed_forward.up_proj": "feed_forward.gate_proj",
}
LOWEST = 0.3  # narrower ranges are not tried: best for 17 of 25,920 4-bit channels of SmolLM2-135M, for no LPBQ ones
BLOCKS = 4  # of a symmetric matrix, of which half of those off its diagonal are left out
READ, LAYERS, HEAD = "SeqMSE embeddings", "SeqMSE", "SeqMSE head"  # parts, in the progress
CHUNK = 1 << 17  # weights searched at a time: their float copies stay in the processor's cache


def search(
    checkpoint: Checkpoint, samples: list[list[int]], recipe: Recipe, progress: Progress, folder: Path
) -> dict[str, torch.Tensor]:
    """Search where the recipe asks. Float32 ratios (out,) in (0, 1] by projection, such as `layers.3.attention.q_proj`.

    Ratios of a layer are in `folder` as soon as they are known, with a manifest, and are not searched for again while
    they are those of the manifest and all that they depend on is the same; files of other searches are removed. Each
    sample of token ids is read from position 0.
    """
    check_samples(samples, checkpoint.config)
    files, missing = _search_for(checkpoint, samples, recipe, folder)
    if len(missing) < len(files):
        progress.say(f"SeqMSE: {len(files) - len(missing)} of {len(files)} layers found in {folder}")
    progress.announce(_parts(checkpoint, samples, missing))
    if missing:
        with torch.no_grad(), progress.stage("SeqMSE"):
            _search_missing(checkpoint, samples, recipe, missing, progress, files)
    for file in set(folder.glob("*.safetensors*")) - {*files.values(), *map(manifest_path, files.values())}:
        file.unlink(missing_ok=True)
    return {_name(place, name): ratios for place, file in files.items() for name, ratios in load_file(file).items()}


def search_parts(checkpoint: Checkpoint, samples: list[list[int]], recipe: Recipe, folder: Path) -> dict[str, float]:
    """The parts of a search that is still to come, for `Progress.announce`; none where all is known."""
    return _parts(checkpoint, samples, _search_for(checkpoint, samples, recipe, folder)[1])


def best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    """Ratios (out,) of a weight (out, in, 1, 1), given the sum of products of its inputs (in, in).

    A channel keeps its min-max range where no candidate is better: where it is zero, or holds no numbers.
    """
    parts = weight.cpu().split(_rows_at_a_time(weight[0].numel()))
    return torch.cat([_best_ratios(part, products, observer, candidates) for part in parts])


def _rows_at_a_time(n_in: int) -> int:
    return max(1, CHUNK // n_in)


def _best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    ratios = torch.arange(candidates, math.ceil(LOWEST * candidates) - 1, -1) / candidates
    fakes = narrowed(observer, weight, ratios.tolist())
    differences = torch.stack([weight - fake for fake in fakes]).flatten(2).to(products.device)
    errors = _quadratic_form(differences.flatten(0, 1), products).cpu().reshape(len(ratios), -1)
    return torch.where(errors.amin(dim=0).isfinite(), ratios[errors.argmin(dim=0)], 1.0)


def _quadratic_form(rows: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return x P xᵀ (n,) of each row x (n, in), for a symmetric P (in, in): of what P has twice, one half is enough."""
    form, step = torch.zeros(len(rows), device=rows.device), -(-rows.shape[1] // BLOCKS)
    for start in range(0, rows.shape[1], step):
        own = rows[:, start : start + step]
        part = own @ products[start : start + step, start : start + step]
        if start:
            part.addmm_(rows[:, :start], products[:start, start : start + step], alpha=2)
        form += torch.linalg.vecdot(part, own)
    return form


def _asked(recipe: Recipe, n_layers: int) -> dict[str, dict[str, Precision]]:
    """Of each layer (by its number) and the epilogue, the projections to search for. Nothing of those without any."""
    asked: dict[str, dict[str, Precision]] = {}
    projections = [(str(i), name) for i in range(n_layers) for name in LAYER_PROJECTIONS]
    for place, name in (*projections, (EPILOGUE, OUTPUT_PROJECTION)):
        precision = recipe.at(place, name)
        if precision.seq_mse:
            asked.setdefault(place, {})[name] = precision
    return asked


def _search_for(
    checkpoint: Checkpoint, samples, recipe: Recipe, folder: Path
) -> tuple[dict[str, Path], dict[str, dict[str, Precision]]]:
    """The file of each place where the recipe asks, and what is asked for at those whose file is not there."""
    asked = _asked(recipe, checkpoint.config.n_layers)
    files = _files(checkpoint, samples, asked, folder) if asked else {}
    return files, {place: precisions for place, precisions in asked.items() if not _is_known(files[place])}


def _parts(checkpoint: Checkpoint, samples, missing: dict[str, dict[str, Precision]]) -> dict[str, float]:
    sizes = sizes_of(checkpoint.config)
    parts = {READ: table_s(sizes), LAYERS: sum(_costs_of_layers(checkpoint, samples, missing))} if missing else {}
    return parts | ({HEAD: search_s(sizes, _ranges(missing[EPILOGUE]))} if EPILOGUE in missing else {})


def _costs_of_layers(checkpoint: Checkpoint, samples, missing: dict[str, dict[str, Precision]]) -> list[float]:
    """Of those that the samples pass, up to the last one that is needed."""
    sizes = sizes_of(checkpoint.config)
    n, forward = _n_layers(checkpoint, missing), float_layer_s(sizes, samples)
    return [forward + search_s(sizes, _ranges(missing.get(str(i), {}))) for i in range(n)]


def _ranges(precisions: dict[str, Precision]) -> dict[str, int]:
    return {name: precision.seq_mse for name, precision in precisions.items()}


def _n_layers(checkpoint: Checkpoint, missing: dict[str, dict[str, Precision]]) -> int:
    return checkpoint.config.n_layers if EPILOGUE in missing else 1 + max(map(int, missing))


def _is_known(file: Path) -> bool:
    return file.is_file() and manifest_path(file).is_file() and not damage(file)


def _name(place: str, projection: str) -> str:
    return f"{place}.{projection}" if place == EPILOGUE else f"layers.{place}.{projection}"


def _files(checkpoint: Checkpoint, samples, asked: dict[str, dict[str, Precision]], folder: Path) -> dict[str, Path]:
    """The file of each place's ratios, named by a digest of all that they depend on."""
    files = [sha256(checkpoint.path), sha256(checkpoint.path.with_name("config.json"))]
    common = [*files, checkpoint.rotated, samples, code_digest("hexport/quantization/seq_mse.py")]
    named = {}
    for place, precisions in asked.items():
        own = {name: [p.weight_bits, p.granularity, p.block_size, p.seq_mse] for name, p in precisions.items()}
        digest = hashlib.sha256(json.dumps([common, place, own], sort_keys=True).encode()).hexdigest()
        named[place] = folder / f"{place}.{digest[:16]}.safetensors"
    return named


def _search_missing(checkpoint, samples, recipe: Recipe, missing, progress: Progress, files: dict[str, Path]) -> None:
    observers: dict[tuple, dict[str, Observer]] = {}
    for place, weights, products in _inputs(checkpoint, samples, missing, progress):
        template = _template(checkpoint, recipe, place)
        if template not in observers:
            observers[template] = _weight_observers(checkpoint, recipe, place)
        ratios = {}
        for name, precision in missing[place].items():
            observer, of_inputs = observers[template][f"{name}.weight"], products[SAME_INPUT.get(name, name)]
            found = [best_ratios(block, of_inputs, observer, precision.seq_mse) for block in weights[name]]
            ratios[name] = torch.cat(found)
        with atomic_path(files[place]) as temporary:
            save_file(ratios, temporary)
        write_manifest(files[place], script=__file__, inputs={}, params={}, stages={})


def _template(checkpoint: Checkpoint, recipe: Recipe, place: str) -> tuple:
    """Places for which it is the same have the same observers."""
    if place == EPILOGUE:
        return (EPILOGUE,)
    return checkpoint.config.layer_signature(int(place)), recipe.template_of(int(place))


def _weight_observers(checkpoint: Checkpoint, recipe: Recipe, place: str) -> dict[str, Observer]:
    if place == EPILOGUE:
        epilogue = load_epilogue(checkpoint, row_blocks(checkpoint)[0])
        return prepare_epilogue(epilogue, EXPORT_LENGTH, recipe).weights
    return prepare_layer(checkpoint.config, int(place), EXPORT_LENGTH, EXPORT_LENGTH, recipe).weights


def _inputs(
    checkpoint: Checkpoint, samples, asked: dict[str, dict[str, Precision]], progress: Progress
) -> Iterator[tuple[str, dict[str, Iterable[torch.Tensor]], dict[str, torch.Tensor]]]:
    """Pass all samples through the float model, as far as the last of the places where something is asked for.

    Yields each of these, and of the projections asked for their weights, in blocks of rows, and the products (in, in)
    of their inputs.
    """
    config, costs = checkpoint.config, _costs_of_layers(checkpoint, samples, asked)
    states = _states(checkpoint, samples, progress)
    for i in progress.steps(range(len(costs)), LAYERS, len(costs), costs=costs):
        kind, layer = config.layers[i], load_layer(checkpoint, i, UncachedLayer).to(device())
        products = _products(layer, asked.get(str(i), ()))
        for state in states:
            state.hidden = layer(state.hidden, state.masks[kind.sliding], *rope_of(kind, state.ropes))[0]
        if str(i) in asked:
            yield str(i), {name: [layer.get_submodule(name).weight] for name in asked[str(i)]}, products
    if EPILOGUE in asked:
        norm, products = load_epilogue(checkpoint, row_blocks(checkpoint)[0]).norm.to(device()), {}
        for state in states:
            _add(products, OUTPUT_PROJECTION, to_channels(norm(state.hidden)))
        yield EPILOGUE, {OUTPUT_PROJECTION: _head(checkpoint, progress)}, products


def _head(checkpoint: Checkpoint, progress: Progress) -> Iterator[torch.Tensor]:
    """The output projection's weight, in blocks of the rows that are searched at a time."""
    blocks = row_blocks(checkpoint, ALIGNMENT * _rows_at_a_time(checkpoint.config.hidden_size))
    for block in progress.steps(blocks, HEAD, len(blocks), "block", [float(end - start) for start, end in blocks]):
        yield checkpoint.epilogue_parameters(block)["output.weight"]


def _states(checkpoint: Checkpoint, samples, progress: Progress) -> list[State]:
    prologue, samples = prologue_of(checkpoint, samples, progress, READ)
    states = []
    for sample in samples:
        hidden, *ropes = prologue(*token_inputs(sample))
        masks = causal_masks(len(sample), len(sample), 0, checkpoint.config.sliding_window)
        states.append(State(hidden, ropes, masks).to(device()))
    return states


def _products(module: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """To be filled, whenever `module` runs, with the products of the inputs of these projections: one of a kind."""
    products: dict[str, torch.Tensor] = {}
    for name in {SAME_INPUT.get(name, name) for name in names}:
        module.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: _add(products, name, *inputs))
    return products


def _add(products: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    """x (1, in, 1, tokens)"""
    x = x.flatten(2).squeeze(0)
    products[name] = torch.addmm(products[name], x, x.T) if name in products else x @ x.T
