"""What follows from the facts of QNN programs: faults of encodings and context binaries, modes, where they run."""

import dataclasses
import io
import re

import pytest
import torch
from portable_programs import (
    AR,
    CONSTANTS,
    CONTEXT,
    HEAD_DIM,
    N_KV_HEADS,
    Cached,
    cached_inputs,
    save_program,
)
from rich.console import Console

from hexport.errors import HexportError
from hexport.programs.capabilities import emulator_refusal, modes, phone_socs
from hexport.programs.conformance import faults
from hexport.programs.context_binary import TensorEncoding
from hexport.programs.facts import DelegateData, MethodFacts, Part, ProgramFacts, QnnOptions
from hexport.programs.inspection import inspect_program
from hexport.programs.report import as_tables
from hexport.runtime.program import Program


@pytest.fixture(scope="module")
def facts(hybrid) -> ProgramFacts:
    return inspect_program(hybrid)


def quantised(facts: ProgramFacts) -> ProgramFacts:
    """The facts as those of a QNN program in 16 bits that obeys the ABI."""
    encodings = {"k": TensorEncoding(0.01, 30000), "v": TensorEncoding(0.02, 31000), "l": TensorEncoding(0.5, 100)}
    encodings["a"] = TensorEncoding(255 / 65535, 65535)
    options = QnnOptions("htp", "SM8550", "V73", False, False, False, False, False)

    def coded(method: MethodFacts) -> MethodFacts:
        inputs, outputs = (
            [
                dataclasses.replace(each, dtype="uint16", encoding=encodings[each.name[0]])
                if each.dtype == "float32"
                else each
                for each in tensors
            ]
            for tensors in (method.inputs, method.outputs)
        )
        return MethodFacts(inputs, outputs, [Part("QnnBackend", 0, options)], [])

    methods = {name: coded(method) for name, method in facts.methods.items()}
    constants = {**facts.constants, "get_kv_io_bit_width": 16, "get_logits_scale": 0.5, "get_logits_zero_point": 100}
    data = [DelegateData(10**6, list(methods), list(methods), "v2")]
    return dataclasses.replace(facts, methods=methods, constants=constants, delegate_data=data)


def changed_tensor(facts: ProgramFacts, method: str, name: str, **changes: object) -> ProgramFacts:
    """The facts with one input or output changed."""
    before = facts.methods[method]

    def changed(tensors):
        return [dataclasses.replace(each, **changes) if each.name == name else each for each in tensors]

    after = dataclasses.replace(before, inputs=changed(before.inputs), outputs=changed(before.outputs))
    return dataclasses.replace(facts, methods={**facts.methods, method: after})


ENCODINGS = {
    "k of one call": ("kv_forward", "k_1", "kv_forward: k_1 has another encoding than kv_forward: k_cache_1"),
    "v between graphs": (
        "prefill_forward",
        "v_cache_0",
        "prefill_forward: v_cache_0 has another encoding than kv_forw",
    ),
    "mask": ("kv_forward", "atten_mask", "atten_mask has zero point 5; it must be 65535"),
    "logits": ("prefill_forward", "logits", "prefill_forward: logits have scale 0.1 .*say scale 0.5"),
}


@pytest.mark.parametrize("method, name, text", ENCODINGS.values(), ids=ENCODINGS)
def test_encodings_that_do_not_fit_each_other_are_faults(facts, method, name, text):
    assert faults(quantised(facts)) == []
    found = faults(changed_tensor(quantised(facts), method, name, encoding=TensorEncoding(0.1, 5)))
    assert found and re.search(text, found[0])


@pytest.mark.parametrize("name", ["get_logits_scale", "get_logits_zero_point"])
@pytest.mark.parametrize("value", ["half", "inf", [0.5, 0.5], None, True], ids=repr)
def test_a_logits_encoding_that_is_no_number_is_a_fault(facts, name, value):
    program = quantised(facts)
    found = faults(dataclasses.replace(program, constants={**program.constants, name: value}))
    assert found == [f"{name} is {value!r}, expected a number; export it again with hexport"]


def test_graphs_of_one_program_must_share_context_binaries(facts):
    program = quantised(facts)
    prefill = program.methods["prefill_forward"]
    apart = dataclasses.replace(prefill, parts=[dataclasses.replace(prefill.parts[0], data=1)])
    data = [*program.delegate_data, program.delegate_data[0]]
    found = faults(
        dataclasses.replace(program, methods={**program.methods, "prefill_forward": apart}, delegate_data=data)
    )
    assert ["different context binaries (part 1)" in fault for fault in found] == [True]
    fewer = dataclasses.replace(prefill, parts=[])
    found = faults(dataclasses.replace(program, methods={**program.methods, "prefill_forward": fewer}))
    assert ["kv_forward has 1 parts, prefill_forward 0" in fault for fault in found] == [True]


def test_a_graph_must_have_the_name_of_its_method(facts):
    program = quantised(facts)
    data = [dataclasses.replace(program.delegate_data[0], graphs=["kv_forward", "other"])]
    (fault,) = faults(dataclasses.replace(program, delegate_data=data))
    assert fault.startswith("prefill_forward: part 1 is a context binary of kv_forward, other;")


def test_the_modes_of_a_program_follow_from_its_graphs(facts, tmp_path):
    methods = {"kv_forward": (Cached(), cached_inputs(AR)), "prefill_forward": (Cached(), cached_inputs(2))}
    constants = {**CONSTANTS, "get_ar_len": AR}
    lookahead = inspect_program(save_program(tmp_path / "lookahead.pte", methods, constants))
    assert (faults(lookahead), modes(lookahead)) == ([], ["lookahead"])
    kv = dataclasses.replace(facts, methods={"kv_forward": facts.methods["kv_forward"]})
    assert (faults(kv), modes(kv)) == ([], ["kv"])
    alone = dataclasses.replace(lookahead, methods={"kv_forward": lookahead.methods["kv_forward"]})
    assert ["reads 4 tokens a call, which no mode uses" in fault for fault in faults(alone)] == [True]


def test_a_program_names_the_phones_of_its_architecture(facts):
    named = phone_socs(quantised(facts))
    assert named[0] == "SM8550"
    assert "QCS9100" in named and "SM8650" not in named
    assert phone_socs(facts) == []


def with_options(program: ProgramFacts, **options) -> ProgramFacts:
    def changed(method: MethodFacts) -> MethodFacts:
        parts = [
            dataclasses.replace(part, options=dataclasses.replace(part.options, **options)) for part in method.parts
        ]
        return dataclasses.replace(method, parts=parts)

    return dataclasses.replace(program, methods={name: changed(each) for name, each in program.methods.items()})


def test_what_the_emulator_cannot_run_is_known_before_loading(facts):
    program = quantised(facts)
    assert emulator_refusal(program) is None
    assert "export it for SM8550-emulator" in emulator_refusal(with_options(program, weight_sharing=True))
    one_graph = dataclasses.replace(program.delegate_data[0], graphs=["kv_forward"])
    kv = dataclasses.replace(program, delegate_data=[one_graph])
    assert emulator_refusal(with_options(kv, weight_sharing=True)) is None
    assert "QNN's gpu backend" in emulator_refusal(with_options(program, backend="gpu"))
    large = dataclasses.replace(program.delegate_data[0], n_bytes=4_100_000_000)
    assert "4.1 GB" in emulator_refusal(dataclasses.replace(program, delegate_data=[large]))


def test_operators_that_this_runtime_lacks_are_named(facts):
    method = dataclasses.replace(facts.methods["kv_forward"], operators=["aten::add.out", "llama::fallback.out"])
    refusal = emulator_refusal(dataclasses.replace(facts, methods={"kv_forward": method}))
    assert "lacks llama::fallback.out;" in refusal


@pytest.fixture(scope="module")
def two_head_dims(tmp_path_factory) -> ProgramFacts:
    """Of a hybrid program with head_dim 4 in layer 0 and 8 in layer 1; the runner reads that of each layer."""

    def inputs(ar_len: int) -> list[torch.Tensor]:
        tokens, mask, positions, *_ = cached_inputs(ar_len)
        k = [torch.zeros(1, N_KV_HEADS, dim, CONTEXT - ar_len) for dim in (HEAD_DIM, 2 * HEAD_DIM)]
        return [tokens, mask, positions, *k, *(each.mT.contiguous() for each in k)]

    methods = {"kv_forward": (Cached(), inputs(1)), "prefill_forward": (Cached(), inputs(AR))}
    return inspect_program(save_program(tmp_path_factory.mktemp("programs") / "two_head_dims.pte", methods))


def test_a_program_whose_layers_differ_in_head_dim_is_left_to_the_runner(two_head_dims):
    assert (faults(two_head_dims), modes(two_head_dims)) == ([], ["kv", "hybrid"])
    with pytest.raises(HexportError, match=r"two_head_dims\.pte: .* kv_forward differ in their head_dim \(4, 8\)"):
        Program(two_head_dims.path)
    summary = io.StringIO()
    Console(file=summary, width=200).print(as_tables(two_head_dims, [])[-1])
    rows = [" ".join(line.split()) for line in summary.getvalue().splitlines()]
    for mode in ("kv", "hybrid"):
        named = f"runners {mode}: qnn_llama_runner of executorch main of 2026-08-22 and later (1.4.1 takes the head_dim"
        assert any(row.startswith(named) for row in rows)
    assert "ABI obeyed" in rows
    assert any(row.startswith("emulator no: the layers of kv_forward differ in their head_dim") for row in rows)


def test_within_a_layer_head_dim_is_one(two_head_dims):
    shape = (1, N_KV_HEADS, CONTEXT - 1, HEAD_DIM)
    (fault,) = faults(changed_tensor(two_head_dims, "kv_forward", "v_cache_1", shape=shape))
    assert fault.startswith("kv_forward: v_cache_1 has shape (1, 2, 11, 4), expected (1, 2, 11, 8) ")


def test_graphs_must_agree_in_the_head_dim_of_each_layer(facts, two_head_dims):
    prefill = facts.methods["prefill_forward"]
    mixed = dataclasses.replace(two_head_dims, methods={**two_head_dims.methods, "prefill_forward": prefill})
    (fault,) = faults(mixed)
    assert fault.startswith("head_dim of layer 1 is 8 in kv_forward, 4 in prefill_forward; they share caches; ")
