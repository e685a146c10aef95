"""What follows from the facts of QNN programs: faults of encodings and context binaries, modes, where they run."""

import dataclasses
from pathlib import Path

import pytest
from portable_programs import Cached, cached_inputs, save_hybrid, save_program

from hexport.errors import HexportError
from hexport.lowering.capabilities import emulator_refusal, modes, phones
from hexport.lowering.conformance import faults
from hexport.lowering.context_binary import Encoding
from hexport.lowering.inspection import inspect_program
from hexport.lowering.program_facts import DelegateData, MethodFacts, Part, ProgramFacts, QnnOptions

AR = 4


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> Path:
    return save_hybrid(tmp_path_factory.mktemp("programs") / "hybrid.pte", AR)


@pytest.fixture(scope="module")
def facts(hybrid) -> ProgramFacts:
    return inspect_program(hybrid)


def quantised(facts: ProgramFacts) -> ProgramFacts:
    """The facts as those of a QNN program in 16 bits that obeys the ABI."""
    encodings = {"k": Encoding(0.01, 30000), "v": Encoding(0.02, 31000), "l": Encoding(0.5, 100)}
    encodings["a"] = Encoding(255 / 65535, 65535)
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


def encoded(facts: ProgramFacts, method: str, name: str, encoding: Encoding) -> ProgramFacts:
    """The facts with one encoding changed."""
    before = facts.methods[method]

    def changed(tensors):
        return [dataclasses.replace(each, encoding=encoding) if each.name == name else each for each in tensors]

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
    found = faults(encoded(quantised(facts), method, name, Encoding(0.1, 5)))
    pattern = pytest.RaisesExc(HexportError, match=text)
    assert found and pattern.matches(HexportError(found[0]))


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
    lookahead = inspect_program(save_program(tmp_path / "lookahead.pte", methods))
    assert (faults(lookahead), modes(lookahead)) == ([], ["lookahead"])
    kv = dataclasses.replace(facts, methods={"kv_forward": facts.methods["kv_forward"]})
    assert (faults(kv), modes(kv)) == ([], ["kv"])
    alone = dataclasses.replace(lookahead, methods={"kv_forward": lookahead.methods["kv_forward"]})
    assert ["reads 4 tokens a call, which no mode uses" in fault for fault in faults(alone)] == [True]


def test_a_program_names_the_phones_of_its_architecture(facts):
    named = phones(quantised(facts))
    assert named[0] == "SM8550"
    assert "QCS9100" in named and "SM8650" not in named
    assert phones(facts) == []


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
