"""This module makes a program of one part of a decoder that also puts out what each op inside computes."""

import re
from dataclasses import dataclass
from pathlib import Path

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np
import torch
from executorch.runtime import Runtime, Verification

from hexport.decoder.weights import Checkpoint
from hexport.lowering.compiler import compile_graphs
from hexport.lowering.decoder_graph import DecoderGraph, stamp_shard
from hexport.lowering.program import Method, ProgramPart, assemble
from hexport.lowering.recording import GraphOps, OpTensor
from hexport.lowering.shards import Shard
from hexport.lowering.stamping import NATIVE
from hexport.progress import Progress
from hexport.targets.target import Target

OUTPUT = qnn.Qnn_TensorType_t.QNN_TENSOR_TYPE_APP_READ
METHOD = "forward"
# These ops move codes, or write the same values in other codes. They compute no values of points.
MOVES = {"Cast", "Concat", "Convert", "Gather", "Reshape", "StridedSlice", "Transpose"}


@dataclass(frozen=True)
class Tap:
    """A tap is an output of an op inside a part.

    op: the QNN type of the op.
    point: the point that it computes.
    head: the number of the attention head that it is of, or 0.
    """

    op: str
    point: str
    head: int


class TappedPart:
    """A tapped part is loaded on the emulator. Its graph is as long as the context.

    The HTP compiler may put ops together where it need not put out what lies between them, and then round differently.
    """

    def __init__(self, method: object, ops: GraphOps, taps: dict[OpTensor, Tap]):
        self._method, self._inputs, self._outputs, self._taps = method, ops.inputs, ops.outputs, taps

    @property
    def inputs(self) -> list[str]:
        """Return the names of the values that it takes."""
        return [tensor.value for tensor in self._inputs]

    def __call__(self, codes: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Run the part on codes by the names of values.

        Returns the values that leave the part, in codes as they are; and those of each point, (tokens, features), where
        the heads of an attention follow each other.
        """
        given = [torch.from_numpy(np.ascontiguousarray(codes[it.value]).reshape(it.dims)) for it in self._inputs]
        found = dict(zip(self._outputs, (array.numpy() for array in self._method.execute(given)), strict=True))
        values = {tensor.value: array for tensor, array in found.items() if tensor not in self._taps}
        of_points: dict[str, list[np.ndarray]] = {}
        for tensor in sorted(self._taps, key=lambda tensor: self._taps[tensor].head):
            rows = found[tensor].reshape(-1, found[tensor].shape[-1])
            of_points.setdefault(self._taps[tensor].point, []).append(rows)
        return values, {point: np.concatenate(heads, axis=1) for point, heads in of_points.items()}

    @property
    def op_of(self) -> dict[str, str]:
        """Return the QNN op of each point."""
        return {tap.point: tap.op for tap in self._taps.values()}


def tapped_part(
    graph: DecoderGraph, shard: Shard, checkpoint: Checkpoint, target: Target, folder: Path, progress: Progress
) -> TappedPart:
    """Compile and load a shard of one part, the prologue, a layer or the epilogue, with taps.

    Its files are left in `folder`.
    """
    points = {  # of activations, by the names of their stamped tensors
        f"{place}.{tensor.name}": filling.point
        for place, template in graph.templates.by_place.items()
        for tensor, filling in template.fillings.items()
        if tensor.data is None
    }
    taps: dict[OpTensor, Tap] = {}
    tapped = GraphOps()
    (stamped,) = stamp_shard([graph], checkpoint, shard)
    for op in stamped.ops:
        for tensor in op.outputs:
            point = points.get(tensor.name)
            if point is not None and op.type not in MOVES and tensor.kind == NATIVE:
                head = re.search(r"_h_(\d+)", tensor.name)
                taps[tensor] = Tap(op.type, point, int(head[1]) if head else 0)
                tensor.name, tensor.kind = f"output_tap_{len(taps)}@0", OUTPUT
        tapped.add(op)
    method = Method(tapped.inputs, tapped.outputs, [ProgramPart(tapped.inputs, tapped.outputs, folder / "part.bin")])
    compile_graphs({METHOD: tapped}, target, folder / "part.bin", progress)
    assemble({METHOD: method}, target, {}, folder / "part.pte")
    program = Runtime.get().load_program(folder / "part.pte", verification=Verification.InternalConsistency)
    return TappedPart(program.load_method(METHOD), tapped, taps)
