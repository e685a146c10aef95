"""The .pte that is written from files of context binaries, against the one that executorch makes of them in memory."""

import hashlib
from pathlib import Path

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import pytest
import torch
from executorch.backends.qualcomm.builders.qnn_constants import OpContextLoader
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option
from executorch.backends.qualcomm.utils.utils import (
    generate_htp_compiler_spec,
    generate_qnn_executorch_compiler_spec,
    qnn_edge_config,
    to_edge_transform_and_lower_to_qnn,
    update_spill_fill_size,
)
from executorch.exir import to_edge
from executorch.exir._serialize._program import deserialize_pte_binary

from hexport.errors import HexportError
from hexport.executorch_internals import preprocess_globals_kept
from hexport.lowering import program as lowering
from hexport.lowering.compile_spec import compile_spec
from hexport.lowering.program import Method, ProgramPart, assemble
from hexport.lowering.recording import OpTensor
from hexport.programs.context_binary import HEADER_BYTES, MAGIC
from hexport.targets.target import target_named

TARGET, CONSTANTS = target_named("SM8650"), {"get_ar_len": 1, "get_logits_scale": 0.5}
HEAD = 12  # the number that a header starts with, and the signature


class Attention(torch.nn.Module):
    """Of n tokens: a matrix of n x n that is used twice, so that a large one does not stay in the HTP's memory."""

    def forward(self, hidden):
        scores = hidden @ hidden.transpose(1, 2)
        return torch.softmax(scores, -1) @ hidden + torch.relu(scores).sum(-1, keepdim=True)


@pytest.fixture(scope="module")
def binaries(tmp_path_factory, qnn_sdk) -> dict[int, Path]:
    """Context binaries by the number of tokens; that of 1,500 spills."""
    folder, found = tmp_path_factory.mktemp("binaries"), {}
    options = generate_htp_compiler_spec(use_fp16=True, use_multi_contexts=True)
    spec = generate_qnn_executorch_compiler_spec(soc_model=QcomChipset.SM8650, backend_options=options)
    for n_tokens in (8, 64, 1500):
        edge = to_edge_transform_and_lower_to_qnn(Attention(), (torch.zeros(1, n_tokens, 16),), spec)
        (delegate,) = edge.exported_program().graph_module.children()
        found[n_tokens] = folder / f"{n_tokens}.bin"
        found[n_tokens].write_bytes(delegate.processed_bytes)
    return found


def method(*files: Path) -> Method:
    """A chain of parts."""
    dtype = qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_16
    tensors = [OpTensor(f"{i}", None, dtype, None, {}, 2, [1, 8], [0, 0], None, False) for i in range(len(files) + 1)]
    parts = [ProgramPart([fed], [out], file) for fed, out, file in zip(tensors, tensors[1:], files, strict=False)]
    return Method(tensors[:1], tensors[-1:], parts)


def made_in_memory(methods: dict[str, Method]) -> bytes:
    """What executorch makes of the content of the files."""
    spec = compile_spec(TARGET, any(len(method.parts) > 1 for method in methods.values()), len(methods) > 1)
    exported = {name: lowering._export(name, method) for name, method in methods.items()}
    edge = to_edge(exported, constant_methods=CONSTANTS, compile_config=qnn_edge_config())
    for name, each in methods.items():
        nodes = lowering._context_nodes(edge.exported_program(name))
        for node, part in zip(nodes, each.parts, strict=True):
            node.meta[OpContextLoader.meta_ctx_bin] = part.binary.read_bytes()
    with preprocess_globals_kept():
        edge = edge.to_backend({name: lowering._ContextPartitioner(spec) for name in methods})
    update_spill_fill_size([edge.exported_program(name) for name in methods])
    return edge.to_executorch(lowering.executorch_config()).buffer


# Numbers of tokens of each method's parts.
FORMS = {
    "one method": {"kv_forward": [8]},
    "one binary for two methods": {"kv_forward": [8], "prefill_forward": [8]},
    "binaries of their own": {"kv_forward": [8], "prefill_forward": [64]},
    "shards": {"kv_forward": [8, 1500, 64]},
    "shards of two methods": {"kv_forward": [64, 1500, 8], "prefill_forward": [64, 1500, 8]},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_program_written_from_files_is_the_one_that_executorch_makes_in_memory(binaries, tmp_path, form):
    methods = {name: method(*(binaries[n] for n in numbers)) for name, numbers in form.items()}
    content_sha256 = assemble(methods, TARGET, CONSTANTS, tmp_path / "program.pte")
    program = (tmp_path / "program.pte").read_bytes()
    assert program == made_in_memory(methods)
    unsigned = program
    for binary in {binaries[n].read_bytes() for numbers in form.values() for n in numbers}:
        assert program.count(binary) == 1
        unsigned = unsigned.replace(binary[:HEAD], MAGIC + bytes(HEAD - len(MAGIC)))
    assert content_sha256 == hashlib.sha256(unsigned).hexdigest()


def test_all_parts_share_a_buffer_of_the_size_that_the_largest_spills(binaries, tmp_path):
    methods = {name: method(binaries[8], binaries[1500]) for name in ("kv_forward", "prefill_forward")}
    assemble(methods, TARGET, CONSTANTS, tmp_path / "program.pte")
    plans = deserialize_pte_binary((tmp_path / "program.pte").read_bytes()).program.execution_plan
    options = [flatbuffer_to_option(each.compile_specs[0].value) for plan in plans for each in plan.delegates]
    sizes = [each.backend_options.htp_options.max_sf_buf_size for each in options]
    assert len(sizes) == 4
    assert len(set(sizes)) == 1
    assert sizes[0] > 1500 * 1500


def test_a_shard_that_qnn_cannot_read_is_refused(binaries, tmp_path):
    """executorch would take it for one that spills nothing."""
    content = binaries[64].read_bytes()
    broken = tmp_path / "broken.bin"
    broken.write_bytes(content[:HEADER_BYTES] + bytes(len(content) - HEADER_BYTES))
    with pytest.raises(HexportError, match=r"broken\.bin: damaged, or of a QNN .* remove it"):
        assemble({"kv_forward": method(binaries[8], broken)}, TARGET, CONSTANTS, tmp_path / "program.pte")


def test_memory_does_not_grow_with_the_binaries(binaries, tmp_path):
    """QNN does not read the only binary of a program, so this one is large and empty."""
    assemble({"kv_forward": method(binaries[8])}, TARGET, CONSTANTS, tmp_path / "program.pte")
    large, size = tmp_path / "large.bin", 400 * 2**20
    large.write_bytes(binaries[8].read_bytes()[:HEADER_BYTES])
    with open(large, "r+b") as file:
        file.truncate(size)
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    assemble({"kv_forward": method(large)}, TARGET, CONSTANTS, tmp_path / "program.pte")
    written = (tmp_path / "program.pte").stat().st_size
    (tmp_path / "program.pte").unlink()
    assert written > size
    assert memory_mb("VmHWM") - before < 100


def memory_mb(key: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024
