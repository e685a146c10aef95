"""This module codes weights by calibration data, layer by layer: with SeqMSE's ranges, and with GPTQ's codes in them.

Of the data, an algorithm sees the sum of x xᵀ over the inputs x of a projection, so the samples pass each layer once,
and nothing grows with the tokens. Without GPTQ, the inputs are those of the float model. With it, they are those that
result when the layers before compute with their coded weights, so that a layer is fitted to what it will read; the
samples then pass each layer twice.
"""

from pathlib import Path

import torch
from torch import nn

from hexport.code_digest import code_digest
from hexport.decoder.costs import feedback_s, float_layer_s, search_s, table_s
from hexport.decoder.device import device
from hexport.decoder.kept_names import identity, kept_name
from hexport.decoder.model import UncachedLayer
from hexport.decoder.sizes import sizes_of
from hexport.decoder.stream import State
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.provenance import is_whole, manifest_path, write_manifest
from hexport.quantization.block_scales import block_scales
from hexport.quantization.calibration import check_samples
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.gptq import gptq
from hexport.quantization.prepared import weight_observer
from hexport.quantization.recipe import EPILOGUE, OUTPUT_PROJECTION, WEIGHT_KEYS, Precision, Recipe
from hexport.quantization.recipe_checks import check_sizes
from hexport.quantization.seq_mse import best_ratios, rows_at_a_time
from hexport.quantization.vocabulary import ALIGNMENT, row_blocks
from hexport.quantization.weight_inputs import head_products, observe_layer, pass_layer, states_of
from hexport.quantization.weights import fake_quantised, is_in_blocks, weight_encoding
from hexport.quantization.weights_file import full_name, save_weights, searched, weights_in

READ, LAYERS, HEAD = "weights: embeddings", "weights", "weights: head"  # names of parts in the progress
Asked = dict[str, dict[str, Precision]]  # by place and projection, as `searched` returns it


def coded_weight(name: str, weight: torch.Tensor, products: torch.Tensor, precision: Precision) -> CodedWeight:
    """Code a projection's weight, float32 (out, in, 1, 1), or rows of it, with the algorithms of `precision`.

    `products` is the sum of x xᵀ over its inputs x, float32 (in, in), and `name` is for messages. Raises HexportError
    where GPTQ meets products that are not finite.
    """
    weight, observer = weight.cpu(), weight_observer(precision)
    if not precision.gptq:
        return CodedWeight(
            weight_encoding(observer, weight, best_ratios(weight, products, observer, precision.seq_mse))[0]
        )
    products = products.cpu()
    if not products.isfinite().all():
        raise HexportError(
            f"weights: inputs of {name} are not finite on the calibration data; check the weights for NaN"
        )
    if precision.seq_mse and is_in_blocks(observer):
        scales = block_scales(weight, products, observer, precision.seq_mse)
    else:
        ratios = best_ratios(weight, products, observer, precision.seq_mse) if precision.seq_mse else None
        scales, _ = weight_encoding(observer, weight, ratios)
    return gptq(weight, scales, products, observer.quant_min, observer.quant_max)


def search(
    checkpoint: Checkpoint, samples: list[list[int]], recipe: Recipe, progress: Progress, folder: Path
) -> dict[str, CodedWeight]:
    """Code the weights for which the recipe asks for an algorithm; return them by projection (`epilogue.output`).

    The weights of a layer are written to `folder` as soon as they are known, with a manifest. They are not searched
    again while they are those of the manifest and all that they depend on is the same; files of other searches are
    removed. Each sample of token ids is read from position 0. Raises HexportError as `check_samples`, `check_sizes` and
    `coded_weight` do.
    """
    check_samples(samples, checkpoint.config)
    check_sizes(recipe, sizes_of(checkpoint.config))
    asked = searched(recipe, checkpoint.config.n_layers)
    files = _files(checkpoint, samples, asked, folder)
    missing = {place: precisions for place, precisions in asked.items() if not is_whole(files[place])}
    if len(missing) < len(files):
        progress.say(f"weights: {len(files) - len(missing)} of {len(files)} layers found in {folder}")
    if missing:
        with torch.no_grad(), progress.stage("weights"):
            _search_missing(checkpoint, samples, asked, missing, files, progress)
    for file in set(folder.glob("*.safetensors*")) - {*files.values(), *map(manifest_path, files.values())}:
        file.unlink(missing_ok=True)
    return {full_name(place, name): coded for place, file in files.items() for name, coded in weights_in(file).items()}


def _search_missing(
    checkpoint: Checkpoint, samples, asked: Asked, missing: Asked, files: dict[str, Path], progress: Progress
) -> None:
    config, follows = checkpoint.config, _follows(asked)
    costs = _costs_of_layers(checkpoint, samples, missing, passes=2 if follows else 1)
    head = {HEAD: _search_s(checkpoint, missing[EPILOGUE])} if EPILOGUE in missing else {}
    progress.announce({READ: table_s(sizes_of(config)), LAYERS: sum(costs)} | head)
    states = states_of(checkpoint, samples, progress, READ)
    for i in progress.steps(range(len(costs)), LAYERS, len(costs), costs=costs):
        place, kind, layer = str(i), config.layers[i], load_layer(checkpoint, i, UncachedLayer).to(device())
        hidden = None
        if place in missing:
            hidden, products = observe_layer(layer, kind, states, missing[place])
            coded = {
                name: coded_weight(full_name(place, name), layer.get_submodule(name).weight, products[name], precision)
                for name, precision in missing[place].items()
            }
            _write(files[place], coded)
        if follows and place in files:
            hidden = None
            _compute_with(layer, weights_in(files[place]), asked[place])
        for state, behind in zip(states, hidden or pass_layer(layer, kind, states), strict=True):
            state.hidden = behind
    if EPILOGUE in missing:
        head = coded_head(checkpoint, states, missing[EPILOGUE][OUTPUT_PROJECTION], progress)
        _write(files[EPILOGUE], {OUTPUT_PROJECTION: head})


def coded_head(checkpoint: Checkpoint, states: list[State], precision: Precision, progress: Progress) -> CodedWeight:
    """Code the output projection's weight by its inputs behind the last layer, a block of rows after the other."""
    norm = load_epilogue(checkpoint, row_blocks(checkpoint)[0]).norm.to(device())
    products = head_products(norm, states)
    blocks = row_blocks(checkpoint, ALIGNMENT * rows_at_a_time(checkpoint.config.hidden_size))
    parts = []
    for block in progress.steps(blocks, HEAD, len(blocks), "block", [float(end - start) for start, end in blocks]):
        weight = checkpoint.epilogue_parameters(block)["output.weight"]
        parts.append(coded_weight(OUTPUT_PROJECTION, weight, products, precision))
    scales = torch.cat([part.scales for part in parts])
    return CodedWeight(scales, torch.cat([part.codes for part in parts]) if precision.gptq else None)


def _compute_with(layer: UncachedLayer, coded: dict[str, CodedWeight], precisions: dict[str, Precision]) -> None:
    """Make a layer compute with its coded weights."""
    for name, of_projection in coded.items():
        projection = layer.get_submodule(name)
        observer = weight_observer(precisions[name])
        weight = fake_quantised(observer, projection.weight.cpu(), of_projection).to(device())
        projection.weight = nn.Parameter(weight, requires_grad=False)


def _follows(asked: Asked) -> bool:
    """Return whether layers see what the coded weights of those before leave."""
    return any(precision.gptq for precisions in asked.values() for precision in precisions.values())


def _costs_of_layers(checkpoint: Checkpoint, samples, missing: Asked, passes: int) -> list[float]:
    """Return the seconds that each layer takes, up to the last one that samples must pass."""
    n_layers = checkpoint.config.n_layers if EPILOGUE in missing else 1 + max(map(int, missing))
    forward = passes * float_layer_s(sizes_of(checkpoint.config), samples)
    return [forward + _search_s(checkpoint, missing.get(str(i), {})) for i in range(n_layers)]


def _search_s(checkpoint: Checkpoint, precisions: dict[str, Precision]) -> float:
    sizes = sizes_of(checkpoint.config)
    ranges = {name: precision.seq_mse for name, precision in precisions.items()}
    return search_s(sizes, ranges) + feedback_s(sizes, [name for name, each in precisions.items() if each.gptq])


def _write(file: Path, coded: dict[str, CodedWeight]) -> None:
    save_weights(file, coded)
    write_manifest(file, script=__file__, inputs={}, params={}, stages={})


def _files(checkpoint: Checkpoint, samples, asked: Asked, folder: Path) -> dict[str, Path]:
    """Return the file of each place where an algorithm is asked for, named by a digest of all that it depends on."""
    if not asked:
        return {}
    common = [*identity(checkpoint), samples, code_digest("hexport/quantization/weight_search.py")]
    named, before, follows = {}, [], _follows(asked)
    for place, precisions in asked.items():
        own = {name: [getattr(p, key) for key in sorted(WEIGHT_KEYS)] for name, p in precisions.items()}
        depends_on = [common, before if follows else [], place, own]
        named[place] = folder / f"{place}.{kept_name(depends_on)}.safetensors"
        before.append([place, own])
    return named
