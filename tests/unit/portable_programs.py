"""Programs with the inputs and outputs of a decoder that run on ExecuTorch's own kernels, without QNN."""

from collections.abc import Callable
from pathlib import Path

import torch
from executorch.exir import ExecutorchBackendConfig, schema, to_edge
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass
from torch import nn

N_LAYERS, N_KV_HEADS, HEAD_DIM, VOCABULARY, CONTEXT = 2, 2, 4, 10, 12
AR = 4  # of the prefill graph
CONSTANTS = {
    "get_n_layers": N_LAYERS,
    "get_vocab_size": VOCABULARY,
    "get_max_seq_len": CONTEXT,
    "get_max_context_len": CONTEXT,
    "get_n_kv_heads": N_KV_HEADS,
    "get_head_dim": HEAD_DIM,
    "get_kv_io_bit_width": 32,
}


class Cached(nn.Module):
    """logits: 1000 token + 10 position + what the token's row of the mask adds up to + the number of the logit.

    New k are the first columns of the cache + 1, new v the first rows times 2.
    """

    def forward(self, tokens, mask, positions, *caches):
        ar_len = tokens.shape[1]
        seen = tokens.float() * 1000 + positions.float() * 10 + mask[:, 0].sum(-1)
        logits = seen[..., None] + torch.arange(VOCABULARY)
        half = len(caches) // 2
        return logits, *(k[..., :ar_len] + 1 for k in caches[:half]), *(v[:, :, :ar_len] * 2 for v in caches[half:])


class WholeContext(nn.Module):
    """The same without a cache: the AR length is the context length. New k and v are zeros."""

    def forward(self, tokens, mask):
        logits = (tokens.float() * 1000 + mask[:, 0].sum(-1))[..., None] + torch.arange(VOCABULARY)
        zeros = torch.zeros(1, N_KV_HEADS, HEAD_DIM, CONTEXT)
        return logits, *(zeros + 0.0 for _ in range(N_LAYERS)), *(zeros.mT + 0.0 for _ in range(N_LAYERS))


def cached_inputs(ar_len: int, token_dtype: torch.dtype = torch.int32) -> list[torch.Tensor]:
    slots = CONTEXT - ar_len
    k = [torch.zeros(1, N_KV_HEADS, HEAD_DIM, slots) for _ in range(N_LAYERS)]
    v = [torch.zeros(1, N_KV_HEADS, slots, HEAD_DIM) for _ in range(N_LAYERS)]
    tokens, positions = torch.zeros(1, ar_len, dtype=token_dtype), torch.zeros(1, ar_len, dtype=torch.int32)
    return [tokens, torch.zeros(1, 1, ar_len, CONTEXT), positions, *k, *v]


def whole_context_inputs() -> list[torch.Tensor]:
    return [torch.zeros(1, CONTEXT, dtype=torch.int32), torch.zeros(1, 1, CONTEXT, CONTEXT)]


def save_program(
    path: Path,
    methods: dict[str, tuple[nn.Module, list[torch.Tensor]]],
    constants: dict[str, object] | None = None,
    planned: bool = False,
) -> Path:
    """Export methods, each a module with its example inputs, as one program."""
    exported = {name: torch.export.export(module, tuple(inputs)) for name, (module, inputs) in methods.items()}
    edge = to_edge(exported, constant_methods=CONSTANTS if constants is None else constants)
    planning = MemoryPlanningPass(alloc_graph_input=planned, alloc_graph_output=planned)
    path.write_bytes(edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)
    return path


def save_hybrid(path: Path, prefill_ar_len: int) -> Path:
    graphs = {"kv_forward": 1, "prefill_forward": prefill_ar_len}
    return save_program(path, {name: (Cached(), cached_inputs(ar_len)) for name, ar_len in graphs.items()})


def rewrite(source: Path, path: Path, change: Callable[[dict[str, schema.ExecutionPlan]], None]) -> Path:
    """A program whose tables, but not what it computes, differ in `change` of its plans by method name."""
    program = deserialize_pte_binary(source.read_bytes()).program
    plans = {plan.name: plan for plan in program.execution_plan}
    change(plans)
    program.execution_plan = list(plans.values())
    path.write_bytes(bytes(serialize_pte_binary(PTEFile(program))))
    return path


def tensor(plan: schema.ExecutionPlan, kind: str, index: int) -> schema.Tensor:
    """An input or output (`kind`: inputs, outputs) of a method."""
    return plan.values[getattr(plan, kind)[index]].val
