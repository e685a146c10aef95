"""The cache against the rules of the ExecuTorch runner's smart mask, spelled out slot by slot."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hexport.runtime.kv_cache import KVCache

N_LAYERS, N_KV_HEADS, HEAD_DIM = 2, 3, 4


def new_cache(ar_len: int, context_len: int, dtype=np.uint16) -> KVCache:
    sizes = {"n_layers": N_LAYERS, "n_kv_heads": N_KV_HEADS, "head_dim": HEAD_DIM, "cache_dtype": np.dtype(dtype)}
    lengths = {"ar_len": ar_len, "context_len": context_len, "cache_len": context_len - ar_len}
    return KVCache(SimpleNamespace(**sizes, **lengths))


def outputs(random, ar_len: int) -> list[np.ndarray]:
    """New k and v of a call, in the order of a program's outputs."""
    k = [random.integers(1, 65536, (1, N_KV_HEADS, HEAD_DIM, ar_len), np.uint16) for _ in range(N_LAYERS)]
    v = [random.integers(1, 65536, (1, N_KV_HEADS, ar_len, HEAD_DIM), np.uint16) for _ in range(N_LAYERS)]
    return k + v


def check_mask(cache: KVCache, ar_len: int, context_len: int) -> None:
    slots = context_len - ar_len
    for row in range(ar_len):
        for column in range(context_len):
            attended = column < min(cache.n_past, slots) if column < slots else column - slots <= row
            assert cache.mask[0, 0, row, column] == (65535 if attended else 0), (row, column)


@given(
    ar_len=st.integers(1, 4),
    slots=st.integers(1, 9),
    appended=st.lists(st.integers(1, 4), max_size=6),
    seed=st.integers(0, 9),
)
def test_the_cache_holds_the_appended_columns_in_order_and_attends_only_these(ar_len, slots, appended, seed):
    random = np.random.default_rng(seed)
    cache = new_cache(ar_len, ar_len + slots)
    assert [array.shape for array in cache.arrays] == (
        [(1, N_KV_HEADS, HEAD_DIM, slots)] * N_LAYERS + [(1, N_KV_HEADS, slots, HEAD_DIM)] * N_LAYERS
    )
    check_mask(cache, ar_len, ar_len + slots)
    columns: list[list[np.ndarray]] = []  # per token: k and v of each layer, (n_kv, head_dim)
    for n in appended:
        new = outputs(random, ar_len)
        cache.append(new, min(n, ar_len))
        for i in range(min(n, ar_len)):
            k, v = new[:N_LAYERS], new[N_LAYERS:]
            columns.append([array[0, :, :, i].copy() for array in k] + [array[0, :, i].copy() for array in v])
        for array in new:
            array[:] = 0  # the program may reuse its output buffers
        check_mask(cache, ar_len, ar_len + slots)
    assert cache.n_past == len(columns)
    for slot, column in enumerate(columns[:slots]):
        for layer in range(N_LAYERS):
            np.testing.assert_array_equal(cache.arrays[layer][0, :, :, slot], column[layer])
            np.testing.assert_array_equal(cache.arrays[N_LAYERS + layer][0, :, slot], column[N_LAYERS + layer])


def test_codes_of_the_cache_have_the_dtype_of_the_program():
    assert {array.dtype for array in new_cache(1, 8, np.uint8).arrays} == {np.dtype(np.uint8)}
    assert new_cache(1, 8).mask.dtype == np.uint16
