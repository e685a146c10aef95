"""The cache, column by column: what is appended stays, in order, whichever graph reads it."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexport.runtime.kv_cache import KVCache

N_LAYERS, N_KV_HEADS, HEAD_DIM = 2, 3, 4


def graph(ar_len: int, context_len: int, dtype=np.uint16) -> SimpleNamespace:
    sizes = {"n_layers": N_LAYERS, "n_kv_heads": N_KV_HEADS, "head_dim": HEAD_DIM, "cache_dtype": np.dtype(dtype)}
    return SimpleNamespace(**sizes, ar_len=ar_len, context_len=context_len, cache_len=context_len - ar_len)


def outputs(random, ar_len: int) -> list[np.ndarray]:
    """New k and v of a call, in the order of a program's outputs."""
    k = [random.integers(1, 65536, (1, N_KV_HEADS, HEAD_DIM, ar_len), np.uint16) for _ in range(N_LAYERS)]
    v = [random.integers(1, 65536, (1, N_KV_HEADS, ar_len, HEAD_DIM), np.uint16) for _ in range(N_LAYERS)]
    return k + v


def columns_of(arrays: list[np.ndarray], n: int) -> np.ndarray:
    """k and v of each layer of tokens 0 to n - 1: (n, 2 * layers, n_kv, head_dim)."""
    k, v = arrays[:N_LAYERS], arrays[N_LAYERS:]
    return np.array([[a[0, :, :, i] for a in k] + [a[0, :, i] for a in v] for i in range(n)]).reshape(
        n, 2 * N_LAYERS, N_KV_HEADS, HEAD_DIM
    )


def check_shapes(arrays: list[np.ndarray], slots: int) -> None:
    assert [array.shape for array in arrays] == (
        [(1, N_KV_HEADS, HEAD_DIM, slots)] * N_LAYERS + [(1, N_KV_HEADS, slots, HEAD_DIM)] * N_LAYERS
    )
    assert all(array.flags.c_contiguous for array in arrays)


@given(
    context_len=st.integers(4, 12),
    ar_lens=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["first", "listed", "keep"]), st.integers(0, 99))),
)
def test_tokens_stay_in_order_through_appending_forgetting_and_other_graphs(context_len, ar_lens, steps):
    graphs = [graph(ar_len, context_len) for ar_len in ar_lens]
    cache, held = KVCache(*graphs), []
    capacity = context_len - min(ar_lens)
    check_shapes(cache.arrays, capacity)
    for which, action, seed in steps:
        random, caller = np.random.default_rng(seed), graphs[which % len(graphs)]
        if cache.n_past > caller.cache_len:
            cache.keep(caller.cache_len)
            del held[caller.cache_len :]
        arrays = cache.arranged_for(caller)
        check_shapes(arrays, caller.cache_len)
        np.testing.assert_array_equal(columns_of(arrays, cache.n_past), columns_or_none(held))
        if action == "keep":
            n = int(random.integers(0, cache.n_past + 1))
            cache.keep(n)
            del held[n:]
            continue
        new = outputs(random, caller.ar_len)
        chosen = sorted(random.choice(caller.ar_len, random.integers(0, caller.ar_len + 1), replace=False).tolist())
        if action == "first":
            chosen = list(range(len(chosen)))
        held += list(columns_of(new, caller.ar_len)[chosen])
        del held[capacity:]  # what does not fit is dropped
        cache.append(new, len(chosen) if action == "first" else chosen)
        for array in new:
            array[:] = 0  # the program may reuse its output buffers
        assert cache.n_past == len(held)
    np.testing.assert_array_equal(columns_of(cache.arrays, cache.n_past), columns_or_none(held))


def columns_or_none(held: list[np.ndarray]) -> np.ndarray:
    return np.array(held, np.uint16).reshape(len(held), 2 * N_LAYERS, N_KV_HEADS, HEAD_DIM)


def test_a_graph_as_long_as_the_context_fills_the_cache_of_the_decode_graph():
    whole, decode = graph(8, 8), graph(1, 8)
    cache, new = KVCache(whole, decode), outputs(np.random.default_rng(0), 8)
    check_shapes(cache.arranged_for(whole), 0)
    cache.append(new, 5)
    arrays = cache.arranged_for(decode)
    check_shapes(arrays, 7)
    np.testing.assert_array_equal(columns_of(arrays, 5), columns_of(new, 5))


def test_a_graph_with_too_few_slots_does_not_lose_tokens_silently():
    wide, narrow = graph(1, 8), graph(4, 8)
    cache = KVCache(wide, narrow)
    for seed in range(5):
        cache.append(outputs(np.random.default_rng(seed), 1), 1)
    with pytest.raises(ValueError, match="5 tokens do not fit into 4 slots"):
        cache.arranged_for(narrow)
    with pytest.raises(ValueError, match="6 tokens of 5"):
        cache.keep(6)
    cache.keep(4)
    check_shapes(cache.arranged_for(narrow), 4)


def test_codes_of_the_cache_have_the_dtype_of_the_program():
    assert {array.dtype for array in KVCache(graph(1, 8, np.uint8)).arrays} == {np.dtype(np.uint8)}
