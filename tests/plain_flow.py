"""The plain flow is what stamped lowering is held against: it takes the whole decoder as one graph through every step.

It is slow and large, and is the reference for the stamped flow. Tests compare ops, encodings and outputs of both flows,
and `benchmarks/` compares their time and memory.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from executorch.backends.qualcomm.utils.utils import to_edge_transform_and_lower_to_qnn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e
from whole_decoder import causal_masks, empty_caches, load_decoder

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import MASK, MASKS
from hexport.decoder.stream import token_inputs
from hexport.decoder.weights import Checkpoint
from hexport.lowering.compile_spec import compile_spec
from hexport.lowering.constant_methods import SpecialTokens, constant_methods
from hexport.lowering.program import executorch_config
from hexport.lowering.recording import Op
from hexport.lowering.template_lowering import quantized_io_passes, record_ops
from hexport.programs.abi import KV_METHOD
from hexport.quantization.coded_weight import NO_WEIGHTS, CodedWeight
from hexport.quantization.encodings import known_or_observed, layer_encodings, observe_table
from hexport.quantization.prepared import PreparedGraph, prepare
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.quantization.weights import Observer, fake_quantised, weight_encoding
from hexport.targets.target import Target


def decoder_inputs(config: DecoderConfig, tokens: list[int], context_len: int) -> tuple:
    """Return inputs of the decoder that read a whole sequence from position 0, with an empty cache of CL - n slots.

    n is the number of tokens, and CL is `context_len`.
    """
    ids, positions = token_inputs(tokens)
    masks = causal_masks(len(tokens), context_len, 0, config.sliding_window)
    return ids, masks, positions, *empty_caches(config, context_len - len(tokens))


def prepare_decoder(checkpoint: Checkpoint, context_len: int, ar_len: int, recipe: Recipe) -> PreparedGraph:
    """Return the whole decoder with observers. Its points have the names that they have in the templates."""
    config = checkpoint.config
    inputs = decoder_inputs(config, [0] * ar_len, context_len)
    names = ["tokens", *MASKS[: len(inputs[1])], "input_pos", *_cache_points(config)]
    form = replace(config, masked_softmax=recipe.masked_softmax, r3=recipe.r3)
    return prepare(load_decoder(checkpoint, context_len, form), inputs, recipe, None, names)


def calibrate_plain(
    checkpoint: Checkpoint,
    samples: list[list[int]],
    recipe: Recipe,
    weights: Mapping[str, CodedWeight] = NO_WEIGHTS,
) -> QuantAttrs:
    """Observe the whole prepared decoder on all samples of token ids; return the same as `calibrate` does."""
    config = checkpoint.config
    longest = max(map(len, samples))
    prepared = prepare_decoder(checkpoint, longest, longest, recipe)
    for name, coded in weights.items():
        weight = prepared.module.get_parameter(f"{name}.weight")
        weight.data = fake_quantised(prepared.weights[f"{name}.weight"], weight, coded)
    with torch.no_grad():
        for sample in samples:
            prepared.module(*decoder_inputs(config, sample, len(sample)))
    if config.row_scales:
        observe_table(prepared.points, prepared.module.prologue, "prologue.")
    encodings = {point: known_or_observed(point, observer, config) for point, observer in prepared.points.items()}
    n_layers = config.n_layers
    for i, k, v in zip(range(n_layers), prepared.outputs[1:], prepared.outputs[1 + n_layers :], strict=False):
        layer = {point: observer for point, observer in prepared.points.items() if point.startswith(f"layers.{i}.")}
        encodings |= layer_encodings(layer, k, v)
        encodings |= {f"layers.{i}.k_cache": encodings[k], f"layers.{i}.v_cache": encodings[v]}
    logits, *kv = (encodings[point] for point in prepared.outputs)
    masks = [encodings.pop(mask) for mask in MASKS if mask in encodings]  # all alike; a model need not read both
    return QuantAttrs(
        activations=encodings | {MASK: masks[0]},
        kv=[{"k": k, "v": v} for k, v in zip(kv[:n_layers], kv[n_layers:], strict=True)],
        mask=masks[0],
        logits=logits,
        weights=weights,
    )


def convert_decoder(
    checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, context_len: int, ar_len: int = 1
) -> tuple[GraphModule, tuple]:
    """Return the whole decoder as a QDQ graph with the encodings of `attrs`, and inputs of its shapes.

    It runs on the CPU, for calls of `ar_len` tokens: what it computes is what a program should compute.
    """
    prepared = prepare_decoder(checkpoint, context_len, ar_len, recipe)
    inputs = decoder_inputs(checkpoint.config, [0] * ar_len, context_len)
    with torch.no_grad():
        prepared.module(*inputs)
    tensors = {**dict(prepared.module.named_parameters()), **dict(prepared.module.named_buffers())}
    for name, observer in prepared.weights.items():
        if observer not in prepared.points.values():
            coded = attrs.weights.get(name.removesuffix(".weight"))
            if coded is None:
                _answer_with(observer, *weight_encoding(observer, tensors[name]))
            else:
                # Tensors take what the codes stand for: to code them again gives the same codes.
                tensors[name].data = fake_quantised(observer, tensors[name], coded)
                _answer_with(observer, coded.scales, torch.zeros_like(coded.scales, dtype=torch.int32))
    for point, observer in prepared.points.items():
        encoding = attrs.mask if point in MASKS else attrs.encoding(point)
        _answer_with(observer, torch.tensor([encoding.scale]), torch.tensor([encoding.zero_point]))
    return convert_pt2e(prepared.module), inputs


def record_plain(
    checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, target: Target, context_len: int, ar_len: int = 1
) -> list[Op]:
    """Return the ops of the whole decoder with the encodings of `attrs`, as the HTP compiler would get them."""
    return record_ops(*convert_decoder(checkpoint, attrs, recipe, context_len, ar_len), target)


def lower_plain(
    checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, target: Target, context_len: int, special: SpecialTokens
) -> bytes:
    """Return the bytes of the program of mode kv, as executorch's own flow makes it from end to end.

    `lower` makes the same program by stamping.
    """
    converted, inputs = convert_decoder(checkpoint, attrs, recipe, context_len)
    edge = to_edge_transform_and_lower_to_qnn(
        {KV_METHOD: converted},
        {KV_METHOD: inputs},
        compile_spec(target),
        constant_methods=constant_methods(checkpoint.config, attrs, recipe, 1, context_len, special),
        passes_job=quantized_io_passes(converted),
    )
    return edge.to_executorch(executorch_config()).buffer


def _answer_with(observer: Observer, scales: torch.Tensor, zero_points: torch.Tensor) -> None:
    observer.calculate_qparams = lambda: (scales, zero_points)


def _cache_points(config: DecoderConfig) -> list[str]:
    return [f"layers.{i}.{name}" for name in ("k_cache", "v_cache") for i in range(config.n_layers)]
