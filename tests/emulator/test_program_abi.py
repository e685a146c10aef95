"""What the ExecuTorch QNN llama runner reads from a program, read from the program itself; and what identifies one."""

import json
from pathlib import Path

import numpy as np
import pytest
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import DelegateCall, Program
from tiny_model import CONTEXT, EMULATOR, VOCABULARY

from hexport.devices.emulator import check_htp
from hexport.errors import HexportError
from hexport.programs.inspection import inspect_program
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.program import Program as LoadedProgram
from hexport.targets.target import target_named

N_LAYERS, N_KV_HEADS, HEAD_DIM, HIDDEN = 3, 2, 16, 48
# Target -> SoC and context length; SM8750 is a V79.
TARGETS = {EMULATOR: ("SM8650", CONTEXT), "SM8650": ("SM8650", CONTEXT), "SM8750": ("SM8750", 12)}


@pytest.fixture(scope="module", params=TARGETS)
def target(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(tiny, variants, target) -> Path:
    return tiny.program if target == EMULATOR else variants[target]


@pytest.fixture(scope="module")
def program(path) -> Program:
    return deserialize_pte_binary(path.read_bytes()).program


def manifest(path: Path) -> dict:
    return json.loads(path.with_name(path.name + ".manifest.json").read_text())


def plans(program: Program) -> dict:
    return {plan.name: plan for plan in program.execution_plan}


def io(program: Program) -> tuple[list, list]:
    """Inputs and outputs of kv_forward, each as a tensor of the schema."""
    plan = plans(program)["kv_forward"]
    inputs, outputs = ([plan.values[i].val for i in indices] for indices in (plan.inputs, plan.outputs))
    return inputs, outputs


def test_inputs_and_outputs_have_the_runners_order_shapes_and_dtypes(program, target):
    inputs, outputs = io(program)
    context, n = TARGETS[target][1], N_LAYERS
    slots = context - 1
    expected_inputs = [([1, 1], ScalarType.INT), ([1, 1, 1, context], ScalarType.UINT16), ([1, 1], ScalarType.INT)]
    expected_inputs += [([1, N_KV_HEADS, HEAD_DIM, slots], ScalarType.UINT16)] * n
    expected_inputs += [([1, N_KV_HEADS, slots, HEAD_DIM], ScalarType.UINT16)] * n
    expected_outputs = [([1, 1, VOCABULARY], ScalarType.UINT16)]
    expected_outputs += [([1, N_KV_HEADS, HEAD_DIM, 1], ScalarType.UINT16)] * n
    expected_outputs += [([1, N_KV_HEADS, 1, HEAD_DIM], ScalarType.UINT16)] * n
    assert [(list(tensor.sizes), tensor.scalar_type) for tensor in inputs] == expected_inputs
    assert [(list(tensor.sizes), tensor.scalar_type) for tensor in outputs] == expected_outputs


def test_the_runner_brings_the_buffers_of_all_inputs_and_outputs(program):
    inputs, outputs = io(program)
    assert all(tensor.allocation_info is None for tensor in inputs + outputs)


def test_one_qnn_delegate_does_all_the_work(program, target):
    plan = plans(program)["kv_forward"]
    assert [delegate.id for delegate in plan.delegates] == ["QnnBackend"]
    instructions = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    assert [type(instruction) for instruction in instructions] == [DelegateCall]
    assert len(program.backend_delegate_data) == 1
    options = flatbuffer_to_option(plan.delegates[0].compile_specs[0].value)
    assert options.soc_info.soc_model == QcomChipset[TARGETS[target][0]]
    assert options.shared_buffer == (target != EMULATOR)


def test_constant_methods_have_the_values_of_the_model(program, attrs, target):
    constants = {}
    for name, plan in plans(program).items():
        if name != "kv_forward":
            assert plan.inputs == []
            (output,) = plan.outputs
            (constants[name],) = vars(plan.values[output].val).values()
    assert constants == {
        "get_ar_len": 1,
        "get_bos_id": 256,
        "get_eos_id": 257,
        "get_dim": HIDDEN,
        "get_head_dim": HEAD_DIM,
        "get_max_batch_size": 1,
        "get_max_seq_len": TARGETS[target][1],
        "get_max_context_len": TARGETS[target][1],
        "get_n_bos": 1,
        "get_n_eos": 1,
        "get_n_kv_heads": N_KV_HEADS,
        "get_n_layers": N_LAYERS,
        "get_vocab_size": VOCABULARY,
        "get_use_kv_cache": True,
        "get_kv_io_bit_width": 16,
        "get_logits_scale": attrs.logits.scale,
        "get_logits_zero_point": attrs.logits.zero_point,
    }
    assert isinstance(constants["get_use_kv_cache"], bool)


def test_the_manifests_table_is_that_of_the_program(attrs, program, path):
    table = manifest(path)["graphs"]["kv_forward"]
    dtypes = {"int32": ScalarType.INT, "uint16": ScalarType.UINT16}
    for rows, tensors in zip((table["inputs"], table["outputs"]), io(program), strict=True):
        found = [(list(tensor.sizes), tensor.scalar_type) for tensor in tensors]
        assert [(row["shape"], dtypes[row["dtype"]]) for row in rows] == found
    layers = range(N_LAYERS)
    caches = [f"{name}_cache_{i}" for name in "kv" for i in layers]
    assert [row["name"] for row in table["inputs"]] == ["tokens", "atten_mask", "input_pos", *caches]
    assert [row["name"] for row in table["outputs"]] == ["logits", *(f"{name}_{i}" for name in "kv" for i in layers)]
    encodings = {row["name"]: (row["scale"], row["zero_point"]) for rows in table.values() for row in rows[3:]}
    for i in layers:
        for name in "kv":
            expected = attrs.kv[i][name].scale, attrs.kv[i][name].zero_point
            assert encodings[f"{name}_cache_{i}"] == expected
    mask, logits = table["inputs"][1], table["outputs"][0]
    assert (mask["zero_point"], round(-mask["zero_point"] * mask["scale"], 3)) == (65535, -255)
    assert (logits["scale"], logits["zero_point"]) == (attrs.logits.scale, attrs.logits.zero_point)


def test_a_program_for_another_htp_is_refused_and_one_for_the_same_is_not(tiny, variants):
    check_htp(inspect_program(tiny.program), EMULATOR)
    check_htp(inspect_program(variants["SM8650"]), EMULATOR)
    named = r"kv_llama_qnn\.pte: compiled for SM8750 \(V79\), and the device is SM8650 \(V75\)"
    with pytest.raises(HexportError, match=named) as refusal:
        check_htp(inspect_program(variants["SM8750"]), EMULATOR)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "shares"), [("SM8550", True), ("SM8650", True), ("SM8650-emulator", False), ("SM8450", False)]
)
def test_weights_are_shared_from_v73_on_and_not_on_the_emulator(target, shares):
    assert target_named(target).shares_weights == shares


def test_the_program_of_a_soc_computes_what_the_emulators_does(variants, graph):
    device = LoadedProgram(variants["SM8650"]).graph()
    random = np.random.default_rng(0)
    caches = [random.integers(20000, 45000, array.shape, np.uint16) for array in KVCache(graph).arrays]
    mask = np.full((1, 1, 1, CONTEXT), 65535, np.uint16)
    inputs = np.array([[77]], np.int32), [mask], np.array([[CONTEXT - 1]], np.int32), caches
    (logits, new), (expected_logits, expected_new) = device.call(*inputs), graph.call(*inputs)
    np.testing.assert_array_equal(logits, expected_logits)
    for found, expected in zip(new, expected_new, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_program_does_not_depend_on_what_its_process_did_before(tiny, lowerings, model, tmp_path):
    """This one has checked, compiled and run others."""
    lowered = lowerings.lowered(tmp_path / "kv.pte", *model)
    assert (tmp_path / "kv.pte").read_bytes() == tiny.program.read_bytes()
    assert lowered.content_sha256 == manifest(tiny.program)["content_sha256"]
    one, other = (lowerings.program(*model, n_shards=2, prefill=5) for _ in range(2))
    assert one == other


def test_the_content_hash_leaves_out_what_qnn_signs_by_its_clock(lowerings, model, monkeypatch, tmp_path):
    """Another signature of one context binary changes eight bytes of the program at most, and not its content hash."""
    from hexport.lowering import lower

    compile_graphs = lower.compile_graphs

    def signed_anew(graphs, target, output, *args, **options):
        compile_graphs(graphs, target, output, *args, **options)
        binary = output.read_bytes()
        output.write_bytes(binary[:4] + b"12345678" + binary[12:])

    one = lowerings.lowered(tmp_path / "one.pte", *model)
    monkeypatch.setattr(lower, "compile_graphs", signed_anew)
    other = lowerings.lowered(tmp_path / "other.pte", *model)
    assert one.content_sha256 == other.content_sha256
    contents = ((tmp_path / name).read_bytes() for name in ("one.pte", "other.pte"))
    assert 0 < sum(a != b for a, b in zip(*contents, strict=True)) <= 8


def test_another_weight_target_or_context_gives_other_content(tiny, variants):
    programs = [tiny.program, *(variants[name] for name in ("weight", "SM8650", "SM8750"))]
    assert len({manifest(path)["content_sha256"] for path in programs}) == len(programs)
