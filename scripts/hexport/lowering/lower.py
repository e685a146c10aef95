"""Lowering: canonical checkpoint + quant attrs + target -> .pte."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from executorch.backends.qualcomm.utils.constants import QCOM_OFFSET, QCOM_SCALE

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.lowering.abi import KV_METHOD, constant_methods, input_names, output_names
from hexport.lowering.compiler import compile_graphs
from hexport.lowering.decoder_graph import lower_templates, stamp_decoder
from hexport.lowering.program import DTYPES, Method, assemble
from hexport.lowering.recording import Tensor, Wrappers
from hexport.lowering.target import Target
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.tokenizers import Tokenizer

SIGNATURE = slice(4, 12)  # of the header of a context binary: magic number (4 bytes), signature (8), size (8)


@dataclass(frozen=True)
class Lowered:
    """A program and the facts of its manifest. content_sha256 leaves out the signature that QNN makes of its clock."""

    pte: bytes
    content_sha256: str
    ar_lengths: dict[str, int]
    graphs: dict[str, dict]


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that the program carries for its runner. A tokenizer without BOS gives EOS in its place."""

    bos_id: int
    eos_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, where: Path) -> "SpecialTokens":
        if tokenizer.eos_id is None:
            raise HexportError(f"{where}: the tokenizer names no EOS token; set eos_token in tokenizer_config.json")
        return cls(tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id, tokenizer.eos_id)


def lower_kv(
    checkpoint: Checkpoint,
    attrs: QuantAttrs,
    recipe: Recipe,
    target: Target,
    context_len: int,
    special: SpecialTokens,
    progress: Progress,
) -> Lowered:
    """Mode kv: one decode graph, `kv_forward`, that reads one token per call."""
    check_context(context_len, ar_len=1)
    check_layers(checkpoint, attrs)
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
        constants = kv_constants(checkpoint, attrs, recipe, context_len, special)
        pte = assemble(binary, {KV_METHOD: method}, target, constants)
    return Lowered(
        pte=pte,
        content_sha256=content_sha256(pte, binary),
        ar_lengths={KV_METHOD: 1},
        graphs={KV_METHOD: io_table(method, checkpoint.config.n_layers)},
    )


def kv_constants(
    checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, context_len: int, special: SpecialTokens
) -> dict[str, object]:
    return constant_methods(
        checkpoint.config,
        attrs,
        ar_len=1,
        context_len=context_len,
        kv_bits=recipe.kv_bits,
        bos_id=special.bos_id,
        eos_id=special.eos_id,
    )


def content_sha256(pte: bytes, binary: bytes) -> str:
    """SHA-256 of a program whose context binaries have a signature of zeros.

    Equal inputs give equal programs then, where each is the first of its process: the compiler counts its ops through.
    """
    header = binary[: SIGNATURE.stop]
    digest, rest = hashlib.sha256(), memoryview(pte)
    while (at := pte.find(header, len(pte) - len(rest))) >= 0:
        start = at - (len(pte) - len(rest))
        digest.update(rest[: start + SIGNATURE.start])
        digest.update(bytes(SIGNATURE.stop - SIGNATURE.start))
        rest = rest[start + SIGNATURE.stop :]
    digest.update(rest)
    return digest.hexdigest()


def io_table(method: Method, n_layers: int) -> dict[str, list[dict]]:
    """Name, shape, dtype and encoding of each input and output, in the order of the method."""

    def row(name: str, tensor: Tensor) -> dict:
        dtype = str(DTYPES[tensor.dtype]).removeprefix("torch.")
        row = {"name": name, "shape": tensor.dims, "dtype": dtype}
        if QCOM_SCALE in tensor.quantization:
            row |= {"scale": tensor.quantization[QCOM_SCALE], "zero_point": -tensor.quantization[QCOM_OFFSET]}
        return row

    return {
        "inputs": [row(name, tensor) for name, tensor in zip(input_names(n_layers), method.inputs, strict=True)],
        "outputs": [row(name, tensor) for name, tensor in zip(output_names(n_layers), method.outputs, strict=True)],
    }


def check_context(context_len: int, ar_len: int) -> None:
    if context_len <= ar_len:
        raise HexportError(f"max_seq_len {context_len} leaves no cache beside the AR length {ar_len}; use a larger one")


def check_layers(checkpoint: Checkpoint, attrs: QuantAttrs) -> None:
    found, expected = len(attrs.kv), checkpoint.config.n_layers
    if found != expected:
        raise HexportError(f"quant attrs are of {found} layers, the checkpoint has {expected}; calibrate again")
