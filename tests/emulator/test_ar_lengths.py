"""Graphs of real AR lengths put out the codes of AR-1, bit by bit, at every position and in the cache too."""

from pathlib import Path

import numpy as np
import pytest
from blocks import read_blocks

from hexport.runtime.kv_cache import KVCache
from hexport.runtime.program import Graph, Program

CONTEXT = 161  # odd, so that a token's columns in the cache and in a block differ in parity
AR_LENGTHS = (3, 64, 128)
# Tokens before the first block. Blocks of 3 end with the context from 20, those of 64 and 128 from 33.
STARTS = (0, 20, 33)
TOKENS = np.random.default_rng(0).integers(0, 256, CONTEXT).tolist()


def read(*parts: tuple[Graph, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All tokens, so many by each graph in turn: their logits, and the cache, which has a slot for all but the last."""
    cache, tokens, rows = KVCache(*(graph for graph, _ in parts)), iter(TOKENS), []
    for graph, n in parts:
        part = [next(tokens) for _ in range(n)]
        if part:
            rows.append(read_blocks(graph, part, cache))
    assert (list(tokens), cache.n_past) == ([], CONTEXT - 1)
    return np.concatenate(rows), cache.arranged_for(parts[-1][0])


@pytest.fixture(scope="module")
def programs(tiny, tmp_path_factory) -> dict[int, Path]:
    """A hybrid program per prefill AR length."""
    folder = tmp_path_factory.mktemp("ar")
    paths = {ar_len: folder / str(ar_len) / "hybrid.pte" for ar_len in AR_LENGTHS}
    for ar_len, path in paths.items():
        done = tiny.lower(path, {"mode": "hybrid", "prefill_ar_len": ar_len, "max_seq_len": CONTEXT})
        assert done.returncode == 0, done.stderr
    return paths


@pytest.fixture(scope="module")
def token_by_token(programs) -> tuple[np.ndarray, list[np.ndarray]]:
    return read((Program(programs[AR_LENGTHS[0]]).graph("kv_forward"), CONTEXT))


@pytest.mark.parametrize("ar_len", AR_LENGTHS)
def test_codes_do_not_depend_on_the_ar_length(programs, token_by_token, ar_len):
    """The last block is whole, or padded; the AR-1 graph of the same program reads what stands before and behind."""
    program = Program(programs[ar_len])
    decode, prefill = program.graph("kv_forward"), program.graph("prefill_forward")
    expected_logits, expected_cache = token_by_token
    for start in STARTS:
        fit = ((prefill.cache_len - start) // ar_len + 1) * ar_len
        for n in (fit, fit - ar_len // 2):
            logits, cache = read((decode, start), (prefill, n), (decode, CONTEXT - start - n))
            np.testing.assert_array_equal(logits, expected_logits, err_msg=f"{n} tokens behind {start}")
            for found, expected in zip(cache, expected_cache, strict=True):
                np.testing.assert_array_equal(found, expected, err_msg=f"{n} tokens behind {start}")
