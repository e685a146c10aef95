"""Programs that break the ABI of the QNN llama runner, or have the layout of another one: each named in one line."""

from collections.abc import Callable

import pytest
import torch
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import AllocationDetails
from portable_programs import (
    AR,
    CONSTANTS,
    CONTEXT,
    HEAD_DIM,
    N_KV_HEADS,
    N_LAYERS,
    VOCABULARY,
    Cached,
    WholeContext,
    cached_inputs,
    rewrite,
    save_program,
    tensor,
    whole_context_inputs,
)
from torch import nn

from hexport.errors import HexportError
from hexport.programs.conformance import faults
from hexport.programs.inspection import inspect_program
from hexport.runtime.program import Program


def sized(method: str, kind: str, index: int, sizes: list[int]) -> Callable:
    def change(plans):
        tensor(plans[method], kind, index).sizes = sizes

    return change


def typed(method: str, kind: str, indices: list[int], dtype: ScalarType) -> Callable:
    def change(plans):
        for index in indices:
            tensor(plans[method], kind, index).scalar_type = dtype

    return change


def constant(name: str, value: int) -> Callable:
    def change(plans):
        plan = plans[name]
        plan.values[plan.outputs[0]].val.int_val = value

    return change


def renamed(old: str, new: str) -> Callable:
    def change(plans):
        plans[old].name = new

    return change


def stated(name: str, value: int) -> Callable:
    """A constant method more, in the place of one that programs need not have."""

    def change(plans):
        constant("get_max_context_len", value)(plans)
        renamed("get_max_context_len", name)(plans)

    return change


def cached_as(dtype: ScalarType) -> Callable:
    def change(plans):
        for method in ("kv_forward", "prefill_forward"):
            typed(method, "inputs", list(range(K, K + 2 * N_LAYERS)), dtype)(plans)
            typed(method, "outputs", list(range(1, 1 + 2 * N_LAYERS)), dtype)(plans)

    return change


def nothing_comes_out(plans) -> None:
    plans["kv_forward"].outputs = []


def planned(plans) -> None:
    tensor(plans["kv_forward"], "inputs", 3).allocation_info = AllocationDetails(1, 0, 0)


def codes(plans) -> None:
    for method in ("kv_forward", "prefill_forward"):
        tensor(plans[method], "outputs", 0).scalar_type = ScalarType.UINT16


def without(*names: str) -> Callable:
    def change(plans):
        for name in names:
            del plans[name]

    return change


K, V = 3, 3 + N_LAYERS  # the first of each, among the inputs
# A change of a program that obeys the ABI -> what its fault says.
FAULTS = {
    "k cache not transposed": (
        sized("kv_forward", "inputs", K, [1, N_KV_HEADS, CONTEXT - 1, HEAD_DIM]),
        r"kv_forward: k_cache_0 has shape \(1, 2, 11, 4\), expected \(1, 2, 4, 11\)",
    ),
    "v cache too short": (
        sized("prefill_forward", "inputs", V + 1, [1, N_KV_HEADS, 7, HEAD_DIM]),
        r"prefill_forward: v_cache_1 has shape \(1, 2, 7, 4\), expected \(1, 2, 8, 4\)",
    ),
    "new v": (sized("kv_forward", "outputs", 4, [1, 1, 1, HEAD_DIM]), r"kv_forward: v_1 has shape \(1, 1, 1, 4\)"),
    "tokens": (sized("kv_forward", "inputs", 0, [1, 2]), r"tokens has shape \(1, 2\), expected \(1, 1\)"),
    "context length": (sized("kv_forward", "inputs", 1, [1, 1, 1, 16]), r"k_cache_0 \(and 3 more\) has shape"),
    "token dtype": (typed("kv_forward", "inputs", [0], ScalarType.FLOAT), "tokens is float32, expected int32 or int64"),
    "mask dtype": (typed("kv_forward", "inputs", [1], ScalarType.HALF), "atten_mask is float16, expected uint16 or"),
    "position dtype": (typed("kv_forward", "inputs", [2], ScalarType.LONG), "input_pos is int64, expected int32"),
    "mixed caches": (typed("kv_forward", "inputs", [K], ScalarType.BYTE), "k_cache_0 is uint8, expected float32"),
    "caches of truth values": (
        cached_as(ScalarType.BOOL),
        "k_cache_0 is bool, expected uint16 or uint8 or float32",
    ),
    "caches of 8-bit floats": (cached_as(ScalarType.FLOAT8E4M3FN), "k_cache_0 is float8e4m3fn, expected uint16 or"),
    "no outputs": (nothing_comes_out, "kv_forward: 7 inputs and 0 outputs; expected are tokens"),
    "new k of one layer": (
        sized("kv_forward", "outputs", 2, [N_KV_HEADS, HEAD_DIM]),
        r"kv_forward: k_1 has shape \(2, 4\), expected are 4 dimensions",
    ),
    "planned": (planned, "kv_forward: k_cache_0 lies in the program's own memory plan"),
    "no layers": (without("get_n_layers"), "constant method get_n_layers is missing"),
    "no vocabulary": (without("get_vocab_size"), "constant method get_vocab_size is missing"),
    "no length": (without("get_max_seq_len"), "constant method get_max_seq_len is missing"),
    "no logits encoding": (codes, "get_logits_scale and get_logits_zero_point are missing: a deprecated program"),
    "layers": (constant("get_n_layers", 3), "get_n_layers is 3, but kv_forward has 2 layers"),
    "vocabulary": (constant("get_vocab_size", 9), "get_vocab_size is 9, but kv_forward has 10 logits"),
    "length": (constant("get_max_context_len", 16), "get_max_context_len is 16, but kv_forward has 12 columns"),
    "cache bits": (constant("get_kv_io_bit_width", 8), "get_kv_io_bit_width is 8, but kv_forward has 32 bits"),
    "AR length": (stated("get_ar_len", 4), "get_ar_len is 4, but kv_forward has 1 as its AR length"),
    "heads": (constant("get_n_kv_heads", 3), "get_n_kv_heads is 3, but kv_forward has 2 heads"),
    "head_dim": (constant("get_head_dim", 8), "get_head_dim is 8, but kv_forward has 4 as head_dim"),
    "window": (renamed("get_max_context_len", "get_sliding_window"), "get_sliding_window, but not a second mask"),
    "prefill's vocabulary": (
        sized("prefill_forward", "outputs", 0, [1, AR, 11]),
        "vocab size is 10 in kv_forward, 11 in prefill_forward",
    ),
    "prefill's masks": (
        typed("prefill_forward", "inputs", [1], ScalarType.UINT16),
        "mask dtype is float32 in kv_forward, uint16 in prefill_forward",
    ),
}


@pytest.mark.parametrize("change, text", FAULTS.values(), ids=FAULTS)
def test_each_fault_is_one_line_of_what_where_and_what_to_do(hybrid, tmp_path, change, text):
    program = rewrite(hybrid, tmp_path / "broken.pte", change)
    found = faults(inspect_program(program))
    with pytest.raises(HexportError, match=rf"broken\.pte: .*{text}"):
        Program(program)
    assert all("\n" not in fault and "export it again" in fault for fault in found)


def per_head(ar_len: int) -> list[torch.Tensor]:
    tokens, mask, positions, *_ = cached_inputs(ar_len)
    k = torch.zeros(1, HEAD_DIM, CONTEXT - ar_len)
    return [tokens, mask[0], positions, *[k] * N_LAYERS * N_KV_HEADS, *[k.mT] * N_LAYERS * N_KV_HEADS]


class PerHead(nn.Module):
    def forward(self, tokens, mask, positions, *caches):
        half = len(caches) // 2
        logits = (tokens.float() + mask.sum(-1) + positions)[..., None] + torch.arange(VOCABULARY)
        return logits, *(k[..., :1] + 1 for k in caches[:half]), *(v[:, :1] + 1 for v in caches[half:])


class LogitsOnly(nn.Module):
    def forward(self, tokens, mask):
        return (tokens.float() + mask[:, 0].sum(-1))[..., None] + torch.arange(VOCABULARY)


class Image(nn.Module):
    def forward(self, pixels):
        return pixels * 2


def mask_of_rank_3() -> list[torch.Tensor]:
    tokens, mask, *rest = cached_inputs(1)
    return [tokens, mask[0], *rest]


class MaskOfRank3(Cached):
    def forward(self, tokens, mask, *rest):
        return super().forward(tokens, mask[None], *rest)


def embeddings() -> list[torch.Tensor]:
    return [torch.zeros(1, 1, 8), *cached_inputs(1)[1:]]


class Embedded(Cached):
    def forward(self, embeddings, *rest):
        return super().forward(embeddings[..., 0], *rest)


# Module, inputs and method name of a program of another layout -> what its fault says.
LAYOUTS = {
    "1.1 to 1.3": (
        MaskOfRank3(),
        mask_of_rank_3(),
        "kv_forward",
        r"mask of shape \(1, 1, 12\).* executorch 1\.1 to 1\.3",
    ),
    "0.6 to 1.0": (PerHead(), per_head(1), "kv_forward", r"one cache per head \(.*executorch 0\.6 to 1\.0; run it"),
    "kv of 0.6": (PerHead(), per_head(1), "forward", r"forward: one cache per head"),
    "forward": (Cached(), cached_inputs(1), "forward", r"its decoder is called forward"),
    "embeddings": (Embedded(), embeddings(), "kv_forward", r"takes embeddings of shape \(1, 1, 8\), not token ids"),
    "no cache": (LogitsOnly(), cached_inputs(1)[:2], "kv_forward", r"kv_forward: logits are all that comes out"),
    "an image model": (Image(), [torch.zeros(1, 3, 4, 4)], "forward", r"kv_forward is missing \(found: forward"),
}


@pytest.mark.parametrize("module, inputs, method, text", LAYOUTS.values(), ids=LAYOUTS)
def test_other_layouts_are_recognised_and_named(tmp_path, module, inputs, method, text):
    program = save_program(tmp_path / "other.pte", {method: (module, inputs)})
    (fault,) = faults(inspect_program(program))
    with pytest.raises(HexportError, match=rf"other\.pte: .*{text}") as refusal:
        Program(program)
    assert str(refusal.value) == f"{program}: {fault}"


def test_an_attention_sink_program_is_named(tmp_path):
    constants = {**CONSTANTS, "get_eviction_batch_size": 2, "get_sink_size": 4}
    program = save_program(tmp_path / "sink.pte", {"kv_forward": (Cached(), cached_inputs(1))}, constants)
    with pytest.raises(HexportError, match=r"an attention sink program.*--attention_sink_rope_path"):
        Program(program)


def test_a_prefill_graph_of_another_context_length_is_refused(tmp_path):
    longer = cached_inputs(AR)
    longer[1] = torch.zeros(1, 1, AR, CONTEXT + 4)
    longer[3:] = [torch.zeros(1, N_KV_HEADS, HEAD_DIM, CONTEXT)] * 2 + [
        torch.zeros(1, N_KV_HEADS, CONTEXT, HEAD_DIM)
    ] * 2
    methods = {"kv_forward": (Cached(), cached_inputs(1)), "prefill_forward": (Cached(), longer)}
    program = save_program(tmp_path / "disagreeing.pte", methods)
    with pytest.raises(HexportError, match="context len is 12 in kv_forward, 16 in prefill_forward"):
        Program(program)


def test_inputs_that_the_program_plans_itself_are_refused(tmp_path):
    program = save_program(tmp_path / "planned.pte", {"kv_forward": (Cached(), cached_inputs(1))}, planned=True)
    with pytest.raises(HexportError, match=r"tokens \(and \d+ more\) lies in the program's own memory plan"):
        Program(program)


def test_a_decode_graph_without_a_cache_is_refused(tmp_path):
    methods = {name: (WholeContext(), whole_context_inputs()) for name in ("kv_forward", "prefill_forward")}
    program = save_program(tmp_path / "uncached.pte", methods)
    assert len(faults(inspect_program(program))) == 1
    with pytest.raises(HexportError, match="kv_forward: the AR length is the context length 12, which leaves no cache"):
        Program(program)
