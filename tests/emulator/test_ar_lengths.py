"""Graphs of real AR lengths put out the codes of AR-1, bit by bit, at every position and in the cache too."""

import numpy as np
import pytest

from hexport.runtime.kv_cache import KVCache
from hexport.runtime.masks import causal_masks
from hexport.runtime.program import Graph, Program

CONTEXT = 161  # odd, so that a token's columns in the cache and in a block differ in parity
AR_LENGTHS, N_TOKENS = (3, 64, 128), 32


def read(graph: Graph, tokens: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits, and the cache of what was read; the last block is padded."""
    cache, rows = KVCache(graph), []
    for start in range(0, len(tokens), graph.ar_len):
        block = tokens[start : start + graph.ar_len]
        ids = np.array([block + [0] * (graph.ar_len - len(block))], np.int32)
        positions = np.minimum(np.arange(start, start + graph.ar_len), CONTEXT - 1).astype(np.int32)[None]
        logits, new = graph.call(ids, causal_masks(graph, start), positions, cache.arranged_for(graph))
        cache.append(new, len(block))
        rows.append(logits[: len(block)])
    n = len(cache.arrays) // 2
    held = [a[..., : cache.n_past] for a in cache.arrays[:n]] + [a[:, :, : cache.n_past] for a in cache.arrays[n:]]
    return np.concatenate(rows), [array.copy() for array in held]


@pytest.fixture(scope="module")
def programs(tiny, tmp_path_factory) -> dict[int, Program]:
    """A hybrid program per prefill AR length."""
    folder = tmp_path_factory.mktemp("ar")
    for ar_len in AR_LENGTHS:
        settings = {"mode": "hybrid", "prefill_ar_len": ar_len, "max_seq_len": CONTEXT}
        done = tiny.lower(folder / str(ar_len) / "hybrid.pte", settings)
        assert done.returncode == 0, done.stderr
    return {ar_len: Program(folder / str(ar_len) / "hybrid.pte") for ar_len in AR_LENGTHS}


def test_codes_do_not_depend_on_the_ar_length(programs):
    tokens = np.random.default_rng(0).integers(0, 256, N_TOKENS).tolist()
    expected_logits, expected_cache = read(programs[3].graph("kv_forward"), tokens)
    for ar_len, program in programs.items():
        logits, cache = read(program.graph("prefill_forward"), tokens)
        np.testing.assert_array_equal(logits, expected_logits, err_msg=f"AR-{ar_len}")
        for found, expected in zip(cache, expected_cache, strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=f"AR-{ar_len}")
