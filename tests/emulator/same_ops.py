"""Comparison of recorded QNN ops: the same ops, encodings, data and connections, whatever their names and order."""

import hashlib
import re
from collections import Counter

import numpy as np

from hexport.lowering.decoder_graph import DecoderGraph, stamp_shard
from hexport.lowering.recording import Op, OpTensor
from hexport.lowering.shards import Shard
from hexport.progress import Progress


def stamped_ops(checkpoint, templates, attrs) -> list[Op]:
    graph = DecoderGraph(checkpoint.config, templates, attrs)
    whole = Shard(True, range(checkpoint.config.n_layers), True)
    (stamped,) = stamp_shard([graph], checkpoint, whole, Progress())
    ops = stamped.ops
    names = [tensor.name for op in ops for tensor in op.outputs]
    assert len(set(names)) == len(names)
    return ops


def assert_same_program(stamped: list[Op], plain: list[Op], n_layers: int) -> None:
    expected, found = canonical(plain, n_layers), canonical(stamped, n_layers)
    assert expected.total() == len(plain) + 1 + 2 * n_layers
    assert found - expected == Counter()
    assert expected - found == Counter()


def canonical(ops: list[Op], n_layers: int) -> Counter:
    """Every op and output as a digest of all that it is and of all that it is computed from, names aside."""
    made_by = {tensor: (op, i) for op in ops for i, tensor in enumerate(op.outputs)}
    digests: dict[OpTensor | Op, str] = {}

    def of_tensor(tensor: OpTensor) -> str:
        if tensor not in digests:
            if tensor in made_by:
                op, i = made_by[tensor]
                source = f"{of_op(op)} {i}"
            elif tensor.data is not None:
                source = f"{tensor.data.dtype} {tensor.data.shape} {digest(tensor.data.tobytes())}"
            else:
                source = input_name(tensor.name, n_layers)
            facts = (tensor.kind, tensor.dtype, tensor.dims, tensor.dynamic_dims, tensor.encoding)
            digests[tensor] = digest(f"{source} {facts} {plain_data(tensor.quantization)}")
        return digests[tensor]

    def of_op(op: Op) -> str:
        if op not in digests:
            params = plain_data(sorted([*op.scalar_params, *op.tensor_params], key=lambda param: param[0]))
            digests[op] = digest(f"{op.type} {op.package} {params} {[of_tensor(tensor) for tensor in op.inputs]}")
        return digests[op]

    outputs = [tensor for tensor in made_by if tensor.name.startswith("output_")]
    return Counter([*(f"op {op.type} {of_op(op)}" for op in ops), *(f"output {of_tensor(t)}" for t in outputs)])


def input_name(name: str, n_layers: int) -> str:
    """Of `input_<number>_<name>@0`. The plain flow numbers the masks, and the caches: all k, then all v."""
    name = re.fullmatch(r"input_\d+_(.*)@0", name)[1]
    if name.startswith("masks_"):
        return ("atten_mask", "window_atten_mask")[int(name.removeprefix("masks_"))]
    if name.startswith("caches_"):
        which, layer = divmod(int(name.removeprefix("caches_")), n_layers)
        return f"{'kv'[which]}_cache_{layer}"
    return name


def plain_data(value):
    """Nested parameters and encodings as something that prints in full."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, digest(value.tobytes())
    if isinstance(value, dict):
        return sorted((key, plain_data(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return [plain_data(part) for part in value]
    return repr(value)


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]
