"""Lowering makes shards, and of these a .pte, from a canonical checkpoint, quant attrs and templates."""

from dataclasses import dataclass
from pathlib import Path

from executorch.backends.qualcomm.utils.constants import QCOM_OFFSET, QCOM_SCALE

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.lowering.compiler import compile_graphs
from hexport.lowering.constant_methods import SpecialTokens, constant_methods
from hexport.lowering.decoder_graph import DecoderGraph, stamp_shard
from hexport.lowering.plan import Plan
from hexport.lowering.program import DTYPES, Method, ProgramPart, assemble
from hexport.lowering.recording import OpTensor
from hexport.lowering.shards import Shard
from hexport.lowering.template import Templates
from hexport.programs.abi import KV_METHOD, output_names
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs


@dataclass(frozen=True)
class Lowered:
    """A lowered program says what the manifest of a program holds of it.

    content_sha256: the SHA-256 of the program, with zeros for the signatures of its context binaries.
    graphs: by method name, the inputs and outputs, as of `io_table`.
    """

    content_sha256: str
    graphs: dict[str, dict]


def compile_shard(
    plan: Plan,
    number: int,
    checkpoint: Checkpoint,
    attrs: QuantAttrs,
    templates: dict[int, Templates],
    output: Path,
    progress: Progress,
) -> None:
    """Stamp and compile shard `number`, from 0 on, of all graphs into one context binary, the file `output`.

    Raises HexportError as `plan.shards`, `plan.graphs` and `compile_graphs` do.
    """
    target, shard, graphs = plan.target, plan.shards[number], plan.graphs(templates, attrs)
    if len(graphs) > 1 and not target.shares_weights:
        why = "the emulator" if target.emulator else f"{target.soc} ({target.htp_arch})"
        progress.say(f"{why} cannot share weights between graphs: {len(graphs)} copies are stored")
    with progress.stage("stamp"):
        stamped = dict(zip(graphs, stamp_shard(list(graphs.values()), checkpoint, shard, progress), strict=True))
    with progress.stage("compile"):
        compile_graphs(stamped, target, output, progress, several_contexts=plan.n_shards > 1)


def assemble_program(
    plan: Plan,
    attrs: QuantAttrs,
    templates: dict[int, Templates],
    binaries: list[Path],
    special: SpecialTokens,
    output: Path,
    progress: Progress,
) -> Lowered:
    """Write the program whose shards have these context binaries, in order, to `output`.

    Raises HexportError where there are more or fewer binaries than shards, and as `plan.graphs` and `assemble` do.
    """
    if len(binaries) != plan.n_shards:
        raise HexportError(f"num_sharding is {plan.n_shards}, but {len(binaries)} shards are given; give each")
    graphs = plan.graphs(templates, attrs)
    methods = {name: method_of(graph, plan.shards, binaries) for name, graph in graphs.items()}
    constants = constant_methods(plan.config, attrs, plan.recipe, plan.ar_lengths[KV_METHOD], plan.context_len, special)
    with progress.stage("assemble"):
        content_sha256 = assemble(methods, plan.target, constants, output)
    return Lowered(content_sha256, {name: io_table(method) for name, method in methods.items()})


def method_of(graph: DecoderGraph, shards: list[Shard], binaries: list[Path]) -> Method:
    """Return a graph as its shards compute it one after the other, linked by the names of values."""
    inputs = graph.inputs()
    values, parts = dict(inputs), []
    for shard, binary in zip(shards, binaries, strict=True):
        (ops,) = stamp_shard([graph], None, shard)
        fed = [values[tensor.value] for tensor in ops.inputs]
        values |= {tensor.value: tensor for tensor in ops.outputs}
        parts.append(ProgramPart(fed, ops.outputs, binary))
    outputs = [values[name] for name in output_names(graph.config.n_layers)]
    return Method(list(inputs.values()), outputs, parts)


def io_table(method: Method) -> dict[str, list[dict]]:
    """Return name, shape, dtype and encoding of each input and output, in the order of the method.

    An entry of a manifest is such as

        {"name": "k_cache_0", "shape": [1, 3, 64, 1023], "dtype": "uint16", "scale": 0.0003, "zero_point": 32768}

    Values that are no codes, such as tokens, have neither scale nor zero_point.
    """

    def row(tensor: OpTensor) -> dict:
        dtype = str(DTYPES[tensor.dtype]).removeprefix("torch.")
        row = {"name": tensor.value, "shape": tensor.dims, "dtype": dtype}
        if QCOM_SCALE in tensor.quantization:
            row |= {"scale": tensor.quantization[QCOM_SCALE], "zero_point": -tensor.quantization[QCOM_OFFSET]}
        return row

    return {"inputs": [row(tensor) for tensor in method.inputs], "outputs": [row(tensor) for tensor in method.outputs]}
