"""Calibration works layer by layer: all samples pass the template with the weights of layer i, then of layer i + 1.

Memory holds one layer and the hidden states of the samples. The ranges are those that the whole prepared model would
observe, because the templates run the same ops on the same values.
"""

from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter

import torch
from torch import nn

from hexport.decoder.config import DecoderConfig
from hexport.decoder.costs import (
    EXPORT_S,
    calibrated_epilogue_s,
    calibrated_layer_s,
    calibrated_prologue_s,
    searched_table_s,
    table_s,
)
from hexport.decoder.device import device, machine
from hexport.decoder.masks import MASK
from hexport.decoder.model import Epilogue, Layer, Prologue, UncachedLayer, empty_cache, rope_of
from hexport.decoder.rope import TABLES
from hexport.decoder.sizes import sizes_of
from hexport.decoder.stream import State, check_ids, state_of, token_inputs
from hexport.decoder.weights import Checkpoint, layer_without_weights, load_epilogue, load_prologue
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.quantization.coded_weight import NO_WEIGHTS, CodedWeight
from hexport.quantization.encodings import known_or_observed, layer_encodings, observe_table
from hexport.quantization.points import placed
from hexport.quantization.prepared import (
    PreparedGraph,
    encoding_of,
    end_at,
    observe_once,
    prepare,
    reset,
    set_parameters,
    weight_observer,
)
from hexport.quantization.quant_attrs import Encoding, QuantAttrs
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION, PROLOGUE, Recipe
from hexport.quantization.recipe_checks import check_points, check_sizes
from hexport.quantization.vocabulary import prologue_of, row_blocks
from hexport.quantization.weights import fake_quantised

# Inputs of a layer that other layers share. The other points of a layer's template are the layer's own.
SHARED_INPUTS = {"hidden", MASK, *(f"rope_{i}" for i in range(len(TABLES)))}
# The templates are exported at this AR length and run at the length of each sample.
EXPORT_LENGTH = 8
EPILOGUE_POINTS = [(EPILOGUE, point) for point in ("norm.rms_norm", "output.conv2d")]
READ = "read embeddings"  # the name of a part in the progress


def calibrate(
    checkpoint: Checkpoint,
    samples: list[list[int]],
    recipe: Recipe,
    progress: Progress,
    weights: Mapping[str, CodedWeight] = NO_WEIGHTS,
) -> QuantAttrs:
    """Observe the decoder on samples of token ids, and return the encodings of all its points.

    The samples may have any lengths. Each is read from position 0 and is never padded. A projection computes with its
    weight in `weights`, which are named as in `layers.3.attention.q_proj`, and one that is not there with the
    checkpoint's weight. Raises HexportError as `check_samples`, `check_sizes` and `check_points` do, and where a scale
    is no positive number.
    """
    check_samples(samples, checkpoint.config)
    progress.say(f"decoders compute on {machine()['device']}", passing=True)
    activations: dict[str, Encoding] = {}
    progress.announce(_parts(checkpoint, samples, recipe))
    with torch.no_grad():
        with progress.stage("calibrate prologue"):
            states = _calibrate_prologue(checkpoint, samples, recipe, activations, progress)
        with progress.stage("calibrate layers"):
            kv = _calibrate_layers(checkpoint, states, recipe, weights, activations, progress)
        with progress.stage("calibrate epilogue"):
            logits = _calibrate_epilogue(checkpoint, states, recipe, weights, activations, progress)
    return QuantAttrs(activations, kv, activations[MASK], logits, weights)


def _parts(checkpoint: Checkpoint, samples, recipe) -> dict[str, float]:
    """Return the seconds that each part of a calibration costs, by its name in the progress."""
    sizes, n_layers = sizes_of(checkpoint.config), checkpoint.config.n_layers
    if _sees_extremes(recipe):
        prologue = {READ: table_s(sizes), "calibrate prologue": calibrated_prologue_s(sizes, samples)}
    else:
        prologue = {"calibrate prologue": len(samples) * searched_table_s(sizes)}
    return prologue | {
        "prepare layers": EXPORT_S * len(_templates(checkpoint, recipe)),
        "calibrate": n_layers * calibrated_layer_s(sizes, samples),
        "calibrate epilogue": calibrated_epilogue_s(sizes, samples),
    }


def check_samples(samples: list[list[int]], config: DecoderConfig) -> None:
    """Raise HexportError for no samples, for an empty one, and for a token id beyond the vocabulary."""
    if not samples or not all(samples):
        raise HexportError("calibration: a sample has no tokens; give calibration.prompts or calibration.text")
    check_ids(samples, config, "calibration")


def prepare_prologue(prologue: Prologue, ar_len: int, recipe: Recipe) -> PreparedGraph:
    """Return the graph of a prologue that reads `ar_len` tokens, with the recipe's observers."""
    return prepare(prologue.eval().requires_grad_(False), token_inputs([0] * ar_len), recipe, PROLOGUE)


def prepare_layer(
    config: DecoderConfig, layer: int, context_len: int, ar_len: int, recipe: Recipe, cached: bool = True
) -> PreparedGraph:
    """Return the graph of a layer without weights, with the recipe's observers.

    If it is not `cached`, it has no caches among its inputs; otherwise these have `context_len - ar_len` slots, which
    may be none. Raises HexportError as `check_sizes` does.
    """
    check_sizes(recipe, sizes_of(config))
    kind = config.layers[layer]
    angles = () if kind.rope is None else [torch.zeros(1, 1, ar_len, config.ropes[kind.rope].dims // 2) for _ in TABLES]
    inputs = (
        torch.zeros(1, ar_len, config.hidden_size),
        torch.zeros(1, 1, ar_len, context_len),
        *(empty_cache(config, context_len - ar_len) if cached else ()),
        *angles,
    )
    form = replace(config, masked_softmax=recipe.masked_softmax, r3=recipe.r3)
    module = layer_without_weights(form, Layer if cached else UncachedLayer)
    return prepare(module, inputs, recipe, str(layer))


def prepare_epilogue(epilogue: Epilogue, ar_len: int, recipe: Recipe) -> PreparedGraph:
    """Return the graph of an epilogue that reads the hidden states of `ar_len` tokens, with the recipe's observers."""
    hidden = torch.zeros(1, ar_len, epilogue.output.in_channels)
    return prepare(epilogue.eval().requires_grad_(False), (hidden,), recipe, EPILOGUE)


def _sees_extremes(recipe: Recipe) -> bool:
    """Return whether the observer of the table of embeddings asks only for the smallest and the largest value in it."""
    return recipe.at(PROLOGUE, "embedding.embedding").observer in ("min_max", "moving_average")


def _calibrate_prologue(checkpoint, samples, recipe, activations, progress) -> list[State]:
    config = checkpoint.config
    if _sees_extremes(recipe):
        prologue, samples = prologue_of(checkpoint, samples, progress, READ)
    else:  # the other observers need all of the table at once
        prologue = load_prologue(checkpoint, max(map(len, samples)))
    template = prepare_prologue(prologue, EXPORT_LENGTH, recipe)
    states = []
    for sample in progress.steps(samples, "calibrate prologue", len(samples), "sample"):
        states.append(state_of(template.module, sample, config.sliding_window))
    if config.row_scales:
        observe_table(template.points, prologue)
    for point, observer in template.points.items():
        activations[f"prologue.{point}"] = known_or_observed(f"prologue.{point}", observer, config)
    return states


def _calibrate_layers(checkpoint, states, recipe, weights, activations, progress) -> list[dict[str, Encoding]]:
    """Advance the states through all layers, and return the encodings of the k and v that each layer adds."""
    config = checkpoint.config
    templates = _prepared_layers(checkpoint, recipe, progress)
    names = *templates[_template(checkpoint, recipe, 0)].points, *LAYER_PROJECTIONS
    of_layers = [(str(layer), name) for layer in range(config.n_layers) for name in names]
    check_points(recipe, [*map(placed, activations), *of_layers, *EPILOGUE_POINTS])
    empty = [cache.to(device()) for cache in empty_cache(config, 0)]
    kv = []
    for i in progress.steps(range(config.n_layers), "calibrate", config.n_layers):
        template = templates[_template(checkpoint, recipe, i)]
        parameters = checkpoint.layer_parameters(i)
        for name in LAYER_PROJECTIONS:
            if coded := weights.get(f"layers.{i}.{name}"):
                observer = weight_observer(recipe.at(str(i), name))
                parameters[f"{name}.weight"] = fake_quantised(observer, parameters[f"{name}.weight"], coded)
        set_parameters(template, {name: parameter.to(device()) for name, parameter in parameters.items()})
        reset(template)
        kind = config.layers[i]
        for state in states:
            angles = rope_of(kind, state.ropes)
            state.hidden = template.module(state.hidden, state.masks[kind.sliding], *empty, *angles)[0]
        _, k, v = template.outputs
        layer = layer_encodings({p: o for p, o in template.points.items() if p not in SHARED_INPUTS}, k, v)
        # The runtime moves cache bytes without touching them, so the cache must be coded as the values added to it.
        layer |= {"k_cache": layer[k], "v_cache": layer[v]}
        kv.append({"k": layer[k], "v": layer[v]})
        activations |= {f"layers.{i}.{point}": encoding for point, encoding in layer.items()}
    activations[MASK] = known_or_observed(MASK, template.points[MASK], config)
    return kv


def _templates(checkpoint: Checkpoint, recipe: Recipe) -> dict[tuple, int]:
    """Return the number of the first layer of each template."""
    return {_template(checkpoint, recipe, i): i for i in reversed(range(checkpoint.config.n_layers))}


def _template(checkpoint: Checkpoint, recipe: Recipe, layer: int) -> tuple:
    """Return a key of a layer's template. Layers with equal keys share one."""
    return checkpoint.config.layer_signature(layer), recipe.graph_of(layer)


def _prepared_layers(checkpoint, recipe, progress) -> dict[tuple, PreparedGraph]:
    """Prepare the templates of all layers. Their parameters come later."""
    firsts, templates = sorted(_templates(checkpoint, recipe).items(), key=itemgetter(1)), {}
    for signature, layer in progress.steps(firsts, "prepare layers", len(firsts), "template"):
        templates[signature] = prepare_layer(checkpoint.config, layer, EXPORT_LENGTH, EXPORT_LENGTH, recipe)
        observe_once(templates[signature])
        templates[signature].module.to(device())
    return templates


def _calibrate_epilogue(checkpoint, states, recipe, weights, activations, progress) -> Encoding:
    """Return the encoding of the logits. Min-max observers see them block by block of the vocabulary."""
    by_block = all(recipe.at(*point).observer == "min_max" for point in EPILOGUE_POINTS)
    blocks = row_blocks(checkpoint) if by_block else [(0, checkpoint.config.vocab_size)]
    template = prepare_epilogue(load_epilogue(checkpoint, blocks[0]), EXPORT_LENGTH, recipe)
    observe_once(template)
    if len(blocks) > 1:
        end_at(template, template.outputs[0])
    template.module.to(device())
    calls = [(block, state) for block in blocks for state in states]
    costs = [float((block[1] - block[0]) * state.hidden.shape[1]) for block, state in calls]
    coded = weights.get(f"{EPILOGUE}.{OUTPUT_PROJECTION}")
    loaded = blocks[0] if coded is None else None
    for block, state in progress.steps(calls, "calibrate epilogue", len(calls), "block", costs):
        if block != loaded:
            weight, loaded = checkpoint.epilogue_parameters(block)["output.weight"], block
            if coded is not None:
                weight = fake_quantised(template.weights["output.weight"], weight, coded.rows(*block))
            template.module.output.weight = nn.Parameter(weight.to(device()), requires_grad=False)
        template.module(state.hidden)
    epilogue = {point: encoding_of(o) for point, o in template.points.items() if point not in SHARED_INPUTS}
    activations |= {f"epilogue.{point}": encoding for point, encoding in epilogue.items()}
    return epilogue[template.outputs[0]]
