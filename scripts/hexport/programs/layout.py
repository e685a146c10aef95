"""This module reads the sizes of a decoder's graph from its inputs and outputs, and names layouts that are not the
runner's.
"""

from dataclasses import dataclass
from typing import Any

from hexport.programs.abi import KV_METHOD, PREFILL_METHOD
from hexport.programs.facts import MethodFacts, ProgramFacts, TensorFacts

EXPORT_AGAIN = "export it again with hexport"
GRAPHS = (KV_METHOD, PREFILL_METHOD)
SINGLE_METHOD = "forward"  # the decoder's name before there was kv_forward
FLOATS = ("float32", "float16")
TOKEN_DTYPES = ("int32", "int64")


@dataclass(frozen=True)
class Layout:
    """A layout tells what a graph is called with. Lengths are in tokens, dtypes numpy's names.

    head_dims: of each layer, which may differ. n_masks: 2 with a sliding window, else 1.
    """

    ar_len: int
    context_len: int
    n_layers: int
    n_kv_heads: int
    head_dims: tuple[int, ...]
    vocab_size: int
    n_masks: int
    token_dtype: str
    mask_dtype: str
    cache_dtype: str
    logits_dtype: str

    @property
    def cache_len(self) -> int:
        """Return the slots of the graph's cache, CL - AR."""
        return self.context_len - self.ar_len

    @property
    def head_dim(self) -> int | None:
        """Return the head_dim of all layers; None where they differ."""
        return self.head_dims[0] if len(set(self.head_dims)) == 1 else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the input or output of this name, such as "k_cache_3". Raises KeyError for no name of the
        runner's.
        """
        kind = name.rstrip("0123456789")
        head_dim = self.head_dims[int(name.removeprefix(kind) or 0)]
        return {
            "tokens": (1, self.ar_len),
            "atten_mask": (1, 1, self.ar_len, self.context_len),
            "window_atten_mask": (1, 1, self.ar_len, self.context_len),
            "input_pos": (1, self.ar_len),
            "k_cache_": (1, self.n_kv_heads, head_dim, self.cache_len),
            "v_cache_": (1, self.n_kv_heads, self.cache_len, head_dim),
            "logits": (1, self.ar_len, self.vocab_size),
            "k_": (1, self.n_kv_heads, head_dim, self.ar_len),
            "v_": (1, self.n_kv_heads, self.ar_len, head_dim),
        }[kind]


def layout_of(method: MethodFacts) -> Layout:
    """Return the layout of a graph whose inputs and outputs have the runner's number and ranks: `other_layout` is None
    for it.

    The sizes are read as the runner reads them: AR and context length are those of the mask, heads those of k_0, and
    the head_dim of each layer that of its new k.
    """
    (tokens, mask), (logits, k) = method.inputs[:2], method.outputs[:2]
    new_k = _new_k(method)
    return Layout(
        ar_len=mask.shape[2],
        context_len=mask.shape[3],
        n_layers=len(new_k),
        n_kv_heads=k.shape[1],
        head_dims=tuple(each.shape[2] for each in new_k),
        vocab_size=logits.shape[2],
        n_masks=sum(tensor.is_mask for tensor in method.inputs),
        token_dtype=tokens.dtype,
        mask_dtype=mask.dtype,
        cache_dtype=k.dtype,
        logits_dtype=logits.dtype,
    )


def layouts_of(program: ProgramFacts) -> dict[str, Layout]:
    """Return the layout of each graph by its method; none where `other_layout` names the program's."""
    return {} if other_layout(program) else {name: layout_of(method) for name, method in _graphs(program).items()}


def lengths_of(program: ProgramFacts) -> dict[str, Any]:
    """Return the AR length of each graph and their context length, where they can be told."""
    layouts = layouts_of(program)
    return {
        "ar_lengths": {name: layout.ar_len for name, layout in layouts.items()},
        "context_length": max((layout.context_len for layout in layouts.values()), default=None),
    }


def other_layout(program: ProgramFacts) -> str | None:
    """Return in one line what a program is that the runner of executorch 1.4 and later cannot know;
    None if it could.
    """
    if "get_eviction_batch_size" in program.constants:
        return (
            "an attention sink program, which only turns the caches of another one; pass it to the runner as "
            "--attention_sink_rope_path, and name the decoder's program here"
        )
    for name in (*GRAPHS, SINGLE_METHOD):
        if name in program.methods and (known := _era(name, program.methods[name])):
            return known
    if KV_METHOD not in program.methods:
        found = ", ".join([*program.methods, *program.constants][:6]) or "none"
        return f"method {KV_METHOD} is missing (found: {found}); this is no decoder for the QNN runner; {EXPORT_AGAIN}"
    return next((fault for name, method in _graphs(program).items() if (fault := _unknown(name, method))), None)


def _graphs(program: ProgramFacts) -> dict[str, MethodFacts]:
    return {name: program.methods[name] for name in GRAPHS if name in program.methods}


def _era(name: str, method: MethodFacts) -> str | None:
    """Return in one line which older release's layout a graph has; None where it has none of these."""
    inputs, new = method.inputs, method.outputs[1:]
    if len(inputs) < 2 or inputs[0].dtype not in TOKEN_DTYPES or not new or len(new) % 2:
        return None
    mask, shapes = inputs[1], f"caches such as {method.outputs[-1].shape}"
    if _ranks(new) == {3}:
        return (
            f"{name}: one cache per head ({shapes}), the layout of executorch 0.6 to 1.0; "
            f"run it with a runner of its release, or {EXPORT_AGAIN}"
        )
    if _ranks(new) == {4} and len(mask.shape) in (2, 3):
        return (
            f"{name}: a mask of shape {mask.shape}, the layout of executorch 1.1 to 1.3 (now (1, 1, AR, CL)); "
            f"run it with a runner of these releases, or {EXPORT_AGAIN}"
        )
    if name == SINGLE_METHOD and _ranks(new) == {4}:
        return (
            f"its decoder is called {name}, as before there was {KV_METHOD}; run it with a runner of its release, "
            f"or {EXPORT_AGAIN}"
        )
    return None


def _unknown(name: str, method: MethodFacts) -> str | None:
    """Return in one line how the number or the ranks of a graph's inputs and outputs differ from the runner's; None if
    they do not.
    """
    if len(method.outputs) == 1:
        return f"{name}: logits are all that comes out; without k and v it cannot be continued; {EXPORT_AGAIN}"
    if not method.outputs or method.outputs[0].name is None:
        return (
            f"{name}: {len(method.inputs)} inputs and {len(method.outputs)} outputs; expected are tokens, one or two "
            f"masks, positions, and k and v of each layer, then logits and new k and v; {EXPORT_AGAIN}"
        )
    if len(method.inputs[0].shape) == 3 and method.inputs[0].dtype in FLOATS:
        return (
            f"{name}: takes embeddings of shape {method.inputs[0].shape}, not token ids; "
            "use a decoder with an embedding table of its own"
        )
    ranks = [(method.inputs[1], 4), (method.outputs[0], 3), *((k, 4) for k in _new_k(method))]
    for tensor, rank in ranks:
        if len(tensor.shape) != rank:
            return f"{name}: {tensor.name} has shape {tensor.shape}, expected are {rank} dimensions; {EXPORT_AGAIN}"
    return None


def _new_k(method: MethodFacts) -> list[TensorFacts]:
    """Return the new k of all layers; logits stand before them, and as many new v behind."""
    return method.outputs[1 : 1 + len(method.outputs) // 2]


def _ranks(tensors: list[TensorFacts]) -> set[int]:
    return {len(tensor.shape) for tensor in tensors}
