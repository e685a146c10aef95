"""Masks against the rules of the ExecuTorch runner, spelled out cell by cell."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_decoder import causal_masks

from hexport.decoder.masks import ATTEND, MASKED
from hexport.runtime.masks import coded_masks, tree_masks

# What the runner writes for attend and masked, by the mask's type.
CODES = {"uint16": (65535, 0), "uint8": (255, 0), "float32": (0.0, -65535.0)}


def graph(ar_len: int, context_len: int, window: int | None = None, dtype: str = "uint16") -> SimpleNamespace:
    lengths = {"ar_len": ar_len, "context_len": context_len, "cache_len": context_len - ar_len}
    return SimpleNamespace(**lengths, sliding_window=window, mask_dtype=np.dtype(dtype))


@pytest.mark.parametrize("ar_len", [1, 4, 16])
@pytest.mark.parametrize("window", [None, 1, 3, 5, 12, 40])
def test_causal_masks_are_codes_of_those_that_the_decoder_was_calibrated_with(ar_len, window):
    context_len = 16
    for n_past in range(context_len - ar_len + 1):
        found = coded_masks(graph(ar_len, context_len, window), n_past)
        expected = causal_masks(ar_len, context_len, n_past, window)
        assert len(found) == len(expected)
        for codes, mask in zip(found, expected, strict=True):
            assert codes.dtype == np.uint16
            np.testing.assert_array_equal(codes == 65535, mask.numpy() == ATTEND)
            np.testing.assert_array_equal(codes == 0, mask.numpy() == MASKED)


@given(
    parents=st.integers(1, 8).flatmap(lambda n: st.tuples(*(st.integers(-1, row - 1) for row in range(n)))),
    slots=st.integers(0, 9),
    window=st.none() | st.integers(1, 12),
    dtype=st.sampled_from(list(CODES)),
    data=st.data(),
)
def test_a_token_of_a_tree_sees_the_cache_its_parents_and_itself_within_the_window(parents, slots, window, dtype, data):
    n, n_past = len(parents), data.draw(st.integers(0, slots), label="n_past")
    depth = []
    sees = np.zeros((n, n), bool)
    for row, parent in enumerate(parents):
        depth.append(depth[parent] + 1 if parent >= 0 else 0)
        ancestor = row
        while ancestor >= 0:
            sees[row, ancestor] = True
            ancestor = parents[ancestor]
    positions = n_past + np.array(depth)
    masks = tree_masks(graph(n, slots + n, window, dtype), n_past, sees, positions)
    assert len(masks) == (1 if window is None else 2)
    attend, masked = CODES[dtype]
    for row in range(n):
        for column in range(slots + n):
            in_cache = column < slots
            seen = column < n_past if in_cache else sees[row, column - slots]
            key = column if in_cache else positions[column - slots]
            assert masks[0][0, 0, row, column] == (attend if seen else masked)
            if window is not None:
                near = positions[row] - key < window
                assert masks[1][0, 0, row, column] == (attend if seen and near else masked)
    assert {(mask.shape, mask.dtype) for mask in masks} == {((1, 1, n, slots + n), np.dtype(dtype))}
