"""The cache against the rules of the ExecuTorch runner's smart mask, spelled out slot by slot."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexport.decoder.masks import ATTEND, MASKED, causal_masks
from hexport.runtime.kv_cache import KVCache

N_LAYERS, N_KV_HEADS, HEAD_DIM = 2, 3, 4


def new_cache(ar_len: int, context_len: int, window: int | None = None, dtype=np.uint16) -> KVCache:
    sizes = {"n_layers": N_LAYERS, "n_kv_heads": N_KV_HEADS, "head_dim": HEAD_DIM, "cache_dtype": np.dtype(dtype)}
    lengths = {"ar_len": ar_len, "context_len": context_len, "cache_len": context_len - ar_len}
    return KVCache(SimpleNamespace(**sizes, **lengths, sliding_window=window))


def outputs(random, ar_len: int) -> list[np.ndarray]:
    """New k and v of a call, in the order of a program's outputs."""
    k = [random.integers(1, 65536, (1, N_KV_HEADS, HEAD_DIM, ar_len), np.uint16) for _ in range(N_LAYERS)]
    v = [random.integers(1, 65536, (1, N_KV_HEADS, ar_len, HEAD_DIM), np.uint16) for _ in range(N_LAYERS)]
    return k + v


def check_masks(cache: KVCache, ar_len: int, context_len: int, window: int | None) -> None:
    slots = context_len - ar_len
    for row in range(ar_len):
        for column in range(context_len):
            attended = column < min(cache.n_past, slots) if column < slots else column - slots <= row
            assert cache.masks[0][0, 0, row, column] == (65535 if attended else 0), (row, column)
            if window is not None:
                token = column if column < slots else cache.n_past + column - slots
                attended = attended and cache.n_past + row - token < window
                assert cache.masks[1][0, 0, row, column] == (65535 if attended else 0), (row, column)
    assert len(cache.masks) == (1 if window is None else 2)


@given(
    ar_len=st.integers(1, 4),
    slots=st.integers(1, 9),
    window=st.none() | st.integers(1, 12),
    appended=st.lists(st.integers(1, 4), max_size=6),
    seed=st.integers(0, 9),
)
def test_the_cache_holds_the_appended_columns_in_order_and_attends_only_these(ar_len, slots, window, appended, seed):
    random = np.random.default_rng(seed)
    cache = new_cache(ar_len, ar_len + slots, window)
    assert [array.shape for array in cache.arrays] == (
        [(1, N_KV_HEADS, HEAD_DIM, slots)] * N_LAYERS + [(1, N_KV_HEADS, slots, HEAD_DIM)] * N_LAYERS
    )
    check_masks(cache, ar_len, ar_len + slots, window)
    columns: list[list[np.ndarray]] = []  # per token: k and v of each layer, (n_kv, head_dim)
    for n in appended:
        new = outputs(random, ar_len)
        cache.append(new, min(n, ar_len))
        for i in range(min(n, ar_len)):
            k, v = new[:N_LAYERS], new[N_LAYERS:]
            columns.append([array[0, :, :, i].copy() for array in k] + [array[0, :, i].copy() for array in v])
        for array in new:
            array[:] = 0  # the program may reuse its output buffers
        check_masks(cache, ar_len, ar_len + slots, window)
    assert cache.n_past == len(columns)
    for slot, column in enumerate(columns[:slots]):
        for layer in range(N_LAYERS):
            np.testing.assert_array_equal(cache.arrays[layer][0, :, :, slot], column[layer])
            np.testing.assert_array_equal(cache.arrays[N_LAYERS + layer][0, :, slot], column[N_LAYERS + layer])


@pytest.mark.parametrize("ar_len", [1, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 5, 12, 40])
def test_masks_are_codes_of_those_that_the_decoder_was_calibrated_with(ar_len, window):
    context_len = 16
    cache = new_cache(ar_len, context_len, window)
    for n in [ar_len] * ((context_len - ar_len) // ar_len) + [1]:
        expected = causal_masks(ar_len, context_len, cache.n_past, window)
        assert len(cache.masks) == len(expected)
        for codes, mask in zip(cache.masks, expected, strict=True):
            assert codes.dtype == np.uint16
            np.testing.assert_array_equal(codes == 65535, mask.numpy() == ATTEND)
            np.testing.assert_array_equal(codes == 0, mask.numpy() == MASKED)
        cache.append(outputs(np.random.default_rng(0), ar_len), n)


def test_codes_of_the_cache_have_the_dtype_of_the_program():
    assert {array.dtype for array in new_cache(1, 8, dtype=np.uint8).arrays} == {np.dtype(np.uint8)}
    assert {mask.dtype for mask in new_cache(1, 8, window=2).masks} == {np.dtype(np.uint16)}
