"""Graphs of real AR lengths put out the codes of AR-1, bit by bit, at every position and in the cache too."""

from pathlib import Path

import numpy as np
import pytest
from blocks import read_blocks
from tiny_model import SAMPLES, save_llama

from hexport.decoder.weights import Checkpoint
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.recipe_checks import recipe_from
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.program import Graph, Program

CONTEXT = 161  # odd, so that a token's columns in the cache and in a block differ in parity
AR_LENGTHS = (3, 128)
# Of a recipe with other ops than the tiny model's.
NARROW = {
    "weight_bits": 4,
    "granularity": "per_block",
    "block_size": 16,
    "kv_bits": 8,
    "r3": True,
    "masked_softmax": True,
    "overrides": [{"layers": "epilogue", "points": "output", "weight_bits": 8, "granularity": "per_channel"}],
}
NARROW_SIZES = {"num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 64}
NARROW_SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}
# Tokens before the first block. Blocks of 3 end with the context from 20, those of 64 (as narrow) and 128 from 33.
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
def programs(model, lowerings, keep) -> dict[int, Path]:
    """A hybrid program per prefill AR length."""

    def build(folder: Path) -> None:
        for ar_len in AR_LENGTHS:
            lowerings.write(folder / str(ar_len) / "hybrid.pte", *model, prefill=ar_len, context_len=CONTEXT)

    folder = keep("ar", build)
    return {ar_len: folder / str(ar_len) / "hybrid.pte" for ar_len in AR_LENGTHS}


@pytest.fixture(scope="module")
def token_by_token(programs) -> tuple[np.ndarray, list[np.ndarray]]:
    return read((Program(programs[AR_LENGTHS[0]]).graph("kv_forward"), CONTEXT))


@pytest.mark.parametrize("ar_len", AR_LENGTHS)
def test_codes_do_not_depend_on_the_ar_length(programs, token_by_token, ar_len):
    """The last block is whole, or padded; the AR-1 graph of the same program reads what stands before and behind."""
    compare_blocks(Program(programs[ar_len]), token_by_token, ar_len)


def test_codes_do_not_depend_on_the_ar_length_with_8_bit_keys_masked_softmax_and_blocks(lowerings, tmp_path):
    save_llama(tmp_path / "checkpoint", **NARROW_SIZES)
    checkpoint, recipe = Checkpoint(tmp_path / "checkpoint"), recipe_from(NARROW, "narrow")
    attrs = calibrate(checkpoint, [[256, *text.encode()] for text in SAMPLES], recipe, Progress())
    lowerings.lowered(tmp_path / "hybrid.pte", checkpoint, attrs, recipe, prefill=64, context_len=CONTEXT)
    program = Program(tmp_path / "hybrid.pte")
    decode = program.graph("kv_forward")
    assert decode.cache_dtype == np.uint8
    compare_blocks(program, read((decode, CONTEXT)), 64)


def compare_blocks(program: Program, token_by_token: tuple[np.ndarray, list[np.ndarray]], ar_len: int) -> None:
    decode, prefill = program.graph("kv_forward"), program.graph("prefill_forward")
    expected_logits, expected_cache = token_by_token
    for start in STARTS:
        fit = ((prefill.cache_len - start) // ar_len + 1) * ar_len
        for n in (fit, fit - ar_len // 2):
            logits, cache = read((decode, start), (prefill, n), (decode, CONTEXT - start - n))
            np.testing.assert_array_equal(logits, expected_logits, err_msg=f"{n} tokens behind {start}")
            for found, expected in zip(cache, expected_cache, strict=True):
                np.testing.assert_array_equal(found, expected, err_msg=f"{n} tokens behind {start}")
