"""Lowering: canonical checkpoint + quant attrs + target -> .pte."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from executorch.backends.qualcomm.utils.constants import QCOM_OFFSET, QCOM_SCALE

from hexport.decoder.sizes import sizes_of
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.lowering.compiler import compile_graphs
from hexport.lowering.constant_methods import SpecialTokens, constant_methods
from hexport.lowering.decoder_graph import DecoderGraph, Templates, lower_templates, stamp_shard
from hexport.lowering.program import DTYPES, Method, Part, assemble
from hexport.lowering.recording import Tensor
from hexport.lowering.shards import shards_of
from hexport.programs.abi import KV_METHOD, PREFILL_METHOD, names_by_count
from hexport.progress import Progress
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.targets.modes import LOOKAHEAD_KEYS, MODES, lookahead_ar_len
from hexport.targets.target import Target


@dataclass(frozen=True)
class Lowered:
    """A program and the facts of its manifest. content_sha256 leaves out the signatures of its context binaries."""

    pte: bytes
    content_sha256: str
    ar_lengths: dict[str, int]
    graphs: dict[str, dict]


def ar_lengths_of(settings: dict) -> dict[str, int]:
    """AR length of each graph of a mode, by method name. Settings are the keys of config.yaml and the mode."""
    mode = MODES[settings["mode"]]
    decode = lookahead_ar_len(*(settings[key] for key in LOOKAHEAD_KEYS)) if mode.looks_ahead else 1
    return {KV_METHOD: decode} | ({PREFILL_METHOD: settings["prefill_ar_len"]} if mode.prefills else {})


def lower(
    checkpoint: Checkpoint,
    attrs: QuantAttrs,
    recipe: Recipe,
    target: Target,
    ar_lengths: dict[str, int],
    context_len: int,
    n_shards: int,
    special: SpecialTokens,
    progress: Progress,
) -> Lowered:
    """A program with a graph of each AR length, by method name. Its graphs share context binaries: one per shard."""
    check_context(context_len, ar_lengths)
    shards = shards_of(part_bytes(recipe, sizes_of(checkpoint.config), context_len), n_shards)
    if len(ar_lengths) > 1 and not target.shares_weights:
        why = "the emulator" if target.emulator else f"{target.soc} ({target.htp_arch})"
        progress.say(f"{why} cannot share weights between graphs: {len(ar_lengths)} copies are stored")
    templates = {
        ar_len: lower_templates(checkpoint, recipe, target, ar_len, context_len, progress)
        for ar_len in sorted(set(ar_lengths.values()))
    }
    for each in templates.values():
        check_points(each, attrs)
    graphs = {
        method: DecoderGraph(checkpoint.config, templates[ar_len], attrs) for method, ar_len in ar_lengths.items()
    }
    parts: dict[str, list[Part]] = {method: [] for method in graphs}
    folder = tempfile.TemporaryDirectory()
    for i, shard in enumerate(shards):
        which = f" shard {i + 1} of {n_shards}" if n_shards > 1 else ""
        with progress.stage(f"stamp{which}"):
            stamped = dict(zip(graphs, stamp_shard(list(graphs.values()), checkpoint, shard, progress), strict=True))
        with progress.stage(f"compile{which}"):
            ops = {method: part.ops for method, part in stamped.items()}
            binary = Path(folder.name, f"{i}.bin")
            binary.write_bytes(compile_graphs(ops, target, progress, several_contexts=n_shards > 1))
        for method, part in stamped.items():
            fed = [part.feeds.get(tensor, tensor) for tensor in part.ops.inputs]
            parts[method].append(Part(fed, part.ops.outputs, binary))
        del stamped, ops, part
    methods = {name: Method(graph.inputs, graph.outputs, parts[name]) for name, graph in graphs.items()}
    with progress.stage("assemble"):
        constants = constant_methods(checkpoint.config, attrs, recipe, ar_lengths[KV_METHOD], context_len, special)
        output = Path(folder.name, "program.pte")
        content_sha256 = assemble(methods, target, constants, output)
    return Lowered(
        pte=output.read_bytes(),
        content_sha256=content_sha256,
        ar_lengths=ar_lengths,
        graphs={name: io_table(method) for name, method in methods.items()},
    )


def io_table(method: Method) -> dict[str, list[dict]]:
    """Name, shape, dtype and encoding of each input and output, in the order of the method."""

    def row(name: str, tensor: Tensor) -> dict:
        dtype = str(DTYPES[tensor.dtype]).removeprefix("torch.")
        row = {"name": name, "shape": tensor.dims, "dtype": dtype}
        if QCOM_SCALE in tensor.quantization:
            row |= {"scale": tensor.quantization[QCOM_SCALE], "zero_point": -tensor.quantization[QCOM_OFFSET]}
        return row

    inputs, outputs = names_by_count(len(method.inputs), len(method.outputs))
    return {
        "inputs": [row(name, tensor) for name, tensor in zip(inputs, method.inputs, strict=True)],
        "outputs": [row(name, tensor) for name, tensor in zip(outputs, method.outputs, strict=True)],
    }


def check_context(context_len: int, ar_lengths: dict[str, int]) -> None:
    """A prefill graph may be as long as the context; a decode graph needs a cache."""
    decode, longest = ar_lengths[KV_METHOD], max(ar_lengths.values())
    if context_len <= decode:
        raise HexportError(f"max_seq_len {context_len} leaves no cache beside the AR length {decode}; use a larger one")
    if context_len < longest:
        raise HexportError(f"prefill_ar_len {longest} is more than max_seq_len {context_len}; use a smaller one")


def check_points(templates: Templates, attrs: QuantAttrs) -> None:
    """Raise HexportError where the quant attrs lack a point that a template needs."""
    places = [("prologue", templates.prologue), ("epilogue", templates.epilogue)]
    places += [(f"layers.{i}", template) for i, template in enumerate(templates.layers)]
    for place, template in places:
        points = {filling.point for filling in template.fillings.values() if filling.point}
        for point in sorted(points - template.inputs.keys()):
            attrs.encoding(f"{place}.{point}")
