"""Lowering: canonical checkpoint + quant attrs + target -> .pte."""

from dataclasses import dataclass

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.lowering.abi import KV_METHOD, constant_methods
from hexport.lowering.compiler import compile_graphs
from hexport.lowering.decoder_graph import lower_templates, stamp_decoder
from hexport.lowering.program import Method, assemble
from hexport.lowering.recording import Wrappers
from hexport.lowering.target import Target
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that the program carries for its runner."""

    bos_id: int
    eos_id: int


def lower_kv(
    checkpoint: Checkpoint,
    attrs: QuantAttrs,
    recipe: Recipe,
    target: Target,
    context_len: int,
    special: SpecialTokens,
    progress: Progress,
) -> bytes:
    """Mode kv: one decode graph, `kv_forward`, that reads one token per call."""
    check_context(context_len, ar_len=1)
    templates = lower_templates(checkpoint, recipe, target, 1, context_len, progress)
    graph = Wrappers()
    with progress.stage("stamp"):
        inputs, outputs = stamp_decoder(checkpoint, templates, attrs, progress, graph.add)
    del templates
    with progress.stage("compile"):
        binary = compile_graphs({KV_METHOD: graph}, target)
    method = Method(inputs, outputs, graph.outputs)
    del graph
    with progress.stage("assemble"):
        constants = constant_methods(
            checkpoint.config,
            attrs,
            ar_len=1,
            context_len=context_len,
            kv_bits=recipe.kv_bits,
            bos_id=special.bos_id,
            eos_id=special.eos_id,
        )
        return assemble(binary, {KV_METHOD: method}, target, constants)


def check_context(context_len: int, ar_len: int) -> None:
    if context_len <= ar_len:
        raise HexportError(f"max_seq_len {context_len} leaves no cache beside the AR length {ar_len}; use a larger one")
