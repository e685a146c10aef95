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
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer, load_prologue
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
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION, Precision, Recipe
from hexport.quantization.weights import Observer, narrowed

# Projections that read what another one reads: its products serve them too.
SAME_INPUT = {
    "attention.k_proj": "attention.q_proj",
    "attention.v_proj": "attention.q_proj",
    "feed_forward.up_proj": "feed_forward.gate_proj",
}
LOWEST = 0.3  # narrower ranges are not tried: best for 17 of 25,920 4-bit channels of SmolLM2-135M, for no LPBQ ones
BLOCKS = 4  # of a symmetric matrix, of which half of those off its diagonal are left out
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
    asked = _asked(recipe, checkpoint.config.n_layers)
    files = _files(checkpoint, samples, asked, folder) if asked else {}
    missing = {place: precisions for place, precisions in asked.items() if not _is_known(files[place])}
    if len(missing) < len(asked):
        progress.say(f"SeqMSE: {len(asked) - len(missing)} of {len(asked)} layers found in {folder}")
    if missing:
        with torch.no_grad(), progress.stage("SeqMSE"):
            _search_missing(checkpoint, samples, recipe, missing, progress, files)
    for file in set(folder.glob("*.safetensors*")) - {*files.values(), *map(manifest_path, files.values())}:
        file.unlink(missing_ok=True)
    return {_name(place, name): ratios for place, file in files.items() for name, ratios in load_file(file).items()}


def best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    """Ratios (out,) of a weight (out, in, 1, 1), given the sum of products of its inputs (in, in).

    A channel keeps its min-max range where no candidate is better: where it is zero, or holds no numbers.
    """
    rows = max(1, CHUNK // weight[0].numel())
    return torch.cat([_best_ratios(part, products, observer, candidates) for part in weight.cpu().split(rows)])


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
    for place, module, products in _inputs(checkpoint, samples, missing, progress):
        template = _template(checkpoint, recipe, place)
        if template not in observers:
            observers[template] = _weight_observers(checkpoint, recipe, place)
        ratios = {}
        for name, precision in missing[place].items():
            weight, of_inputs = module.get_submodule(name).weight, products[SAME_INPUT.get(name, name)]
            ratios[name] = best_ratios(weight, of_inputs, observers[template][f"{name}.weight"], precision.seq_mse)
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
        return prepare_epilogue(load_epilogue(checkpoint), EXPORT_LENGTH, recipe).weights
    return prepare_layer(checkpoint.config, int(place), EXPORT_LENGTH, EXPORT_LENGTH, recipe).weights


def _inputs(
    checkpoint: Checkpoint, samples, asked: dict[str, dict[str, Precision]], progress: Progress
) -> Iterator[tuple[str, nn.Module, dict[str, torch.Tensor]]]:
    """Pass all samples through the float model, as far as the last of the places where something is asked for.

    Yields each of these, its module, and the products (in, in) of the inputs of the projections asked for.
    """
    config = checkpoint.config
    states = _states(checkpoint, samples)
    n = config.n_layers if EPILOGUE in asked else 1 + max(map(int, asked))
    for i in progress.steps(range(n), "SeqMSE", n):
        kind, layer = config.layers[i], load_layer(checkpoint, i, UncachedLayer).to(device())
        products = _products(layer, asked.get(str(i), ()))
        for state in states:
            state.hidden = layer(state.hidden, state.masks[kind.sliding], *rope_of(kind, state.ropes))[0]
        if str(i) in asked:
            yield str(i), layer, products
    if EPILOGUE in asked:
        epilogue, products = load_epilogue(checkpoint).to(device()), {}
        for state in states:  # the norm alone: logits need as much memory as all else
            _add(products, OUTPUT_PROJECTION, to_channels(epilogue.norm(state.hidden)))
        yield EPILOGUE, epilogue, products


def _states(checkpoint: Checkpoint, samples) -> list[State]:
    prologue = load_prologue(checkpoint, max(map(len, samples)))
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
