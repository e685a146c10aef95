"""Programs read from their files without running them; and the graphs of those that run, called."""

from pathlib import Path

import numpy as np
import pytest
import torch
from portable_programs import (
    AR,
    CONTEXT,
    HEAD_DIM,
    N_KV_HEADS,
    N_LAYERS,
    VOCABULARY,
    Cached,
    WholeContext,
    cached_inputs,
    save_program,
    whole_context_inputs,
)

from hexport.errors import HexportError
from hexport.programs.capabilities import modes
from hexport.programs.conformance import faults
from hexport.programs.facts import ProgramFacts
from hexport.programs.inspection import inspect_program
from hexport.runtime.program import Program


@pytest.fixture(scope="module")
def whole_context(tmp_path_factory) -> Path:
    """Decoded with int64 tokens, and prefilled in one call without caches."""
    tokens, mask = whole_context_inputs()
    methods = {
        "kv_forward": (Cached(), cached_inputs(1, torch.int64)),
        "prefill_forward": (WholeContext(), [tokens.long(), mask]),
    }
    return save_program(tmp_path_factory.mktemp("programs") / "whole_context.pte", methods)


@pytest.fixture
def facts(hybrid) -> ProgramFacts:
    return inspect_program(hybrid)


def shapes(tensors) -> dict[str, tuple[int, ...]]:
    return {each.name: each.shape for each in tensors}


def test_methods_are_listed_with_the_name_shape_and_dtype_of_every_input_and_output(facts):
    assert list(facts.methods) == ["kv_forward", "prefill_forward"]
    prefill, slots = facts.methods["prefill_forward"], CONTEXT - AR
    assert shapes(prefill.inputs) == {
        "tokens": (1, AR),
        "atten_mask": (1, 1, AR, CONTEXT),
        "input_pos": (1, AR),
        **{f"k_cache_{i}": (1, N_KV_HEADS, HEAD_DIM, slots) for i in range(N_LAYERS)},
        **{f"v_cache_{i}": (1, N_KV_HEADS, slots, HEAD_DIM) for i in range(N_LAYERS)},
    }
    assert shapes(prefill.outputs) == {
        "logits": (1, AR, VOCABULARY),
        **{f"k_{i}": (1, N_KV_HEADS, HEAD_DIM, AR) for i in range(N_LAYERS)},
        **{f"v_{i}": (1, N_KV_HEADS, AR, HEAD_DIM) for i in range(N_LAYERS)},
    }
    assert [each.dtype for each in prefill.inputs] == ["int32", "float32", "int32"] + ["float32"] * 2 * N_LAYERS
    assert "aten::mul.out" in prefill.operators
    assert prefill.parts == [] and facts.options is None


def test_constant_methods_are_read_with_their_values(tmp_path):
    constants = {"get_text": "qnn", "get_flag": True, "get_scale": 0.25, "get_n_layers": 7, "get_attrs": [0.5, 3]}
    program = save_program(tmp_path / "constants.pte", {"kv_forward": (Cached(), cached_inputs(1))}, constants)
    assert inspect_program(program).constants == constants


def test_programs_that_obey_the_abi_have_no_faults(facts, whole_context):
    assert faults(facts) == []
    assert faults(inspect_program(whole_context)) == []
    assert modes(facts) == ["kv", "hybrid"]


def test_a_graph_is_called_with_tokens_masks_positions_and_caches(hybrid):
    graph = Program(hybrid).graph("prefill_forward")
    assert (graph.ar_len, graph.context_len, graph.cache_len) == (AR, CONTEXT, CONTEXT - AR)
    assert (graph.n_layers, graph.n_kv_heads, graph.head_dim) == (N_LAYERS, N_KV_HEADS, HEAD_DIM)
    assert (graph.cache_dtype, graph.mask_dtype, graph.token_dtype) == (np.float32, np.float32, np.int32)
    assert (graph.logits_scale, graph.logits_zero_point, graph.sliding_window) == (1, 0, None)
    tokens, positions = np.array([[3, 1, 2, 0]], np.int32), np.array([[5, 6, 7, 8]], np.int32)
    mask = np.arange(AR * CONTEXT, dtype=np.float32).reshape(1, 1, AR, CONTEXT)
    random = np.random.default_rng(0)
    caches = [random.normal(size=each.shape).astype(np.float32) for each in cached_inputs(AR)[3:]]
    logits, new = graph.call(tokens, [mask], positions, caches)
    expected = 1000 * tokens[0] + 10 * positions[0] + mask[0, 0].sum(axis=1)
    np.testing.assert_array_equal(logits, expected[:, None] + np.arange(VOCABULARY))
    for found, cache in zip(new[:N_LAYERS], caches[:N_LAYERS], strict=True):
        np.testing.assert_array_equal(found, cache[..., :AR] + 1)
    for found, cache in zip(new[N_LAYERS:], caches[N_LAYERS:], strict=True):
        np.testing.assert_array_equal(found, cache[:, :, :AR] * 2)
    some, _ = graph.call(tokens, [mask], positions, caches, slice(1, 3))
    np.testing.assert_array_equal(some, logits[1:3])


def test_a_graph_of_the_whole_context_takes_neither_positions_nor_caches(whole_context):
    program = Program(whole_context)
    graph = program.graph("prefill_forward")
    assert graph.cache_len == 0 and graph.token_dtype == np.int64
    tokens, positions = np.arange(CONTEXT, dtype=np.int32)[None] % VOCABULARY, np.zeros((1, CONTEXT), np.int32)
    mask = np.zeros((1, 1, CONTEXT, CONTEXT), np.float32)
    logits, new = graph.call(tokens, [mask], positions, [np.zeros(0, np.float32)] * 2 * N_LAYERS)
    np.testing.assert_array_equal(logits[:, 0], 1000 * tokens[0])
    assert len(new) == 2 * N_LAYERS
    assert program.graph("kv_forward").cache_len == CONTEXT - 1


@pytest.mark.parametrize("kept", [0.3, 0.9, -1])
def test_a_file_cut_short_is_refused_in_one_line(hybrid, tmp_path, kept):
    content = hybrid.read_bytes()
    (tmp_path / "short.pte").write_bytes(content[: int(len(content) * kept) if kept > 0 else kept])
    with pytest.raises(HexportError, match=r"short\.pte: a broken ExecuTorch program") as refusal:
        Program(tmp_path / "short.pte")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"ET", b"no program " * 99], ids=["empty", "two bytes", "text"])
def test_what_is_no_program_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "other.pte").write_bytes(content)
    with pytest.raises(HexportError, match=r"other\.pte: not an ExecuTorch program"):
        Program(tmp_path / "other.pte")


@pytest.mark.parametrize("seed", range(8))
def test_garbage_behind_the_identifier_is_refused_in_one_line(tmp_path, seed):
    garbage = np.random.default_rng(seed).integers(0, 256, 4000, np.uint8).tobytes()
    (tmp_path / "garbage.pte").write_bytes(garbage[:4] + b"ET12" + garbage[8:])
    with pytest.raises(HexportError, match=r"garbage\.pte: a broken ExecuTorch program"):
        Program(tmp_path / "garbage.pte")
