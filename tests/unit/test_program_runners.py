"""Which versions of the C++ runner fit a program. What 1.4.1 aborts at, and where answers differ, was found by running
programs of these shapes in both versions."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hexport.programs.abi import names_by_count
from hexport.programs.conformance import faults
from hexport.programs.facts import MethodFacts, ProgramFacts, TensorFacts
from hexport.programs.layout import Layout
from hexport.programs.report import as_tables, program_json
from hexport.programs.runners import MAIN, RELEASE, runner_fits

N_LAYERS, N_KV_HEADS, HEAD_DIM, VOCABULARY = 2, 4, 8, 32


def graph(ar_len: int, context_len: int, window: bool, cache_dtype: str) -> MethodFacts:
    layout = Layout(
        ar_len, context_len, N_LAYERS, N_KV_HEADS, (HEAD_DIM,) * N_LAYERS, VOCABULARY, 1 + window, "int32", "uint16",
        cache_dtype, "uint16",
    )  # fmt: skip
    cached = ar_len < context_len
    inputs, outputs = names_by_count(2 + window + cached * (1 + 2 * N_LAYERS), 1 + 2 * N_LAYERS)
    dtypes = {"tokens": "int32", "input_pos": "int32", "logits": "uint16", "atten_mask": "uint16"}
    dtypes["window_atten_mask"] = "uint16"

    def tensors(names: list[str]) -> list[TensorFacts]:
        return [TensorFacts(name, layout.shape(name), dtypes.get(name, cache_dtype), False, None) for name in names]

    return MethodFacts(tensors(inputs), tensors(outputs), [], [])


def program(decode: int, prefill: int | None, context_len: int, window: int | None = None, dtype: str = "uint8"):
    methods = {"kv_forward": graph(decode, context_len, window is not None, dtype)}
    if prefill:
        methods["prefill_forward"] = graph(prefill, context_len, window is not None, dtype)
    constants = {"get_n_layers": N_LAYERS, "get_vocab_size": VOCABULARY, "get_max_seq_len": context_len}
    constants |= {"get_logits_scale": 0.5, "get_logits_zero_point": 100}
    if window is not None:
        constants["get_sliding_window"] = window
    facts = ProgramFacts(Path("x.pte"), 1000, methods, constants, [])
    assert faults(facts) == []
    return facts


def since(facts: ProgramFacts) -> dict[str, str | None]:
    return {mode: fit.since for mode, fit in runner_fits(facts).items()}


SHAPES = {
    "kv": ((1, None, 128), {"kv": RELEASE}),
    "hybrid": ((1, 32, 128), {"kv": RELEASE, "hybrid": RELEASE}),
    "a prefill of the whole context": ((1, 128, 128), {"kv": RELEASE, "hybrid": MAIN}),
    "lookahead of fewer rows than the prefill": ((16, 32, 128), {"lookahead": RELEASE}),
    "lookahead of as many rows": ((32, 32, 128), {"lookahead": RELEASE}),
    "lookahead of more rows": ((64, 32, 128), {"lookahead": MAIN}),
    "lookahead and a prefill of the whole context": ((64, 128, 128), {"lookahead": MAIN}),
}


@pytest.mark.parametrize(("sizes", "expected"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_first_version_that_fits_is_named_by_mode(sizes, expected, dtype):
    assert since(program(*sizes, dtype=dtype)) == expected
    assert since(program(*sizes, window=128, dtype=dtype)) == expected


def test_a_mask_of_the_caches_size_is_no_cache():
    """1.4.1 would read caches in the mask's dtype: 24 rows of 32 columns are as many codes as 4 heads of 8 for 24
    tokens, of which it looks for where the prefill's block has 8."""
    assert since(program(24, 8, 32, window=32)) == {"lookahead": MAIN}


def test_a_prefill_block_longer_than_the_sliding_window_fits_no_version():
    assert since(program(1, 8, 64, window=8)) == {"kv": RELEASE, "hybrid": RELEASE}
    facts = program(1, 8, 64, window=5)
    assert since(facts) == {"kv": RELEASE, "hybrid": None}
    assert "8 tokens exceeds the sliding window of 5" in runner_fits(facts)["hybrid"].limit
    assert "export it with prefill_ar_len: 5 or less" in runner_fits(facts)["hybrid"].limit
    assert since(program(16, 8, 64, window=5)) == {"lookahead": None}


def rows(facts: ProgramFacts) -> list[str]:
    summary = io.StringIO()
    Console(file=summary, width=600).print(as_tables(facts, faults(facts))[-1])
    return [" ".join(line.split()) for line in summary.getvalue().splitlines() if line.startswith("runners")]


def test_the_report_names_the_versions_in_text_and_json():
    assert rows(program(1, 32, 128)) == ["runners qnn_llama_runner of executorch 1.4.1 and later; hexport"]
    lookahead = program(64, 32, 128)
    (line,) = rows(lookahead)
    assert line == (
        "runners lookahead: qnn_llama_runner of executorch main of 2026-08-22 and later; hexport "
        "(1.4.1 looks for caches of 96 tokens and aborts, since those of kv_forward hold 64; "
        "build main of 2026-08-22, or export it with a prefill_ar_len from 64 to 127)"
    )
    assert "\n" not in line
    kv, hybrid = rows(program(1, 8, 64, window=5))
    assert kv == "runners kv: qnn_llama_runner of executorch 1.4.1 and later; hexport"
    assert hybrid.startswith("runners hybrid: no qnn_llama_runner; hexport (its AR length of 8 tokens exceeds ")
    found = program_json(lookahead, [])["runners"]
    assert found["hexport"] is True
    assert found["qnn_llama_runner"]["lookahead"]["since"] == MAIN
    assert program_json(program(1, 32, 128), [])["runners"]["qnn_llama_runner"] == {
        mode: {"since": RELEASE, "limit": None} for mode in ("kv", "hybrid")
    }
    assert program_json(lookahead, ["a fault"])["runners"] is None


def test_an_export_that_the_limit_advises_fits():
    for prefill in (64, 127):
        assert since(program(64, prefill, 128)) == {"lookahead": RELEASE}
    for prefill in (63, 128):
        assert since(program(64, prefill, 128)) == {"lookahead": MAIN}


def test_layers_that_share_a_cache_need_main():
    facts = program(1, 32, 128)
    facts.constants.update(get_n_layers=4, get_n_self_layers=N_LAYERS)
    assert faults(facts) == []
    assert since(facts) == {"kv": MAIN, "hybrid": MAIN}
