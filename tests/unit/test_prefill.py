"""Prompts read in blocks, on the float decoder: the same logits and the same cache as token by token."""

import itertools

import numpy as np
import pytest
from float_graph import FloatGraph, garbage_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.runtime.decode import Generator
from hexport.runtime.prefill import check_prompt, prefill, prompt_limit, read_block
from hexport.runtime.sampling import Sampler

CONTEXT = 24
BLOCK = 5
MODELS = ["llama, llama3 scaling", "gemma3, listed layers slide, full layers scaled"]


@pytest.fixture(scope="module", params=MODELS)
def graph(request, small_model) -> FloatGraph:
    """An AR-1 graph. Others of the same program are made from it."""
    _, folder = small_model(request.param)
    return FloatGraph.of(Checkpoint(folder), 1, CONTEXT, np.float64)


def prompt_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, n).tolist()


def token_by_token(graph: FloatGraph, tokens: list[int]):
    cache = garbage_cache(graph)
    for token in tokens:
        logits = read_block(graph, cache, [token])
    return logits, cache


def assert_same(found, expected, graph: FloatGraph) -> None:
    """Logits, and caches as the graph reads them."""
    (logits, cache), (expected_logits, expected_cache) = found, expected
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-9)
    assert cache.n_past == expected_cache.n_past
    n, pairs = cache.n_past, zip(cache.arranged_for(graph), expected_cache.arranged_for(graph), strict=True)
    for i, (array, expected_array) in enumerate(pairs):
        where = (..., slice(n)) if i < graph.n_layers else (0, slice(None), slice(n))
        np.testing.assert_allclose(array[where], expected_array[where], rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, CONTEXT - BLOCK])
def test_blocks_equal_single_tokens_at_every_block_boundary(graph, n):
    blocks, blocks_heard = graph.resized(BLOCK), []
    cache = garbage_cache(blocks, graph)
    logits = prefill(blocks, cache, prompt_of(n), lambda: blocks_heard.append(blocks.n_calls))
    assert_same((logits, cache), token_by_token(graph, prompt_of(n)), graph)
    assert blocks_heard == list(range(-(-n // BLOCK)))


@settings(max_examples=40, deadline=None)
@given(ar_len=st.integers(1, CONTEXT - 1), data=st.data())
def test_a_prompt_may_be_read_in_parts_behind_anything(graph, ar_len, data):
    blocks = graph.resized(ar_len)
    n = data.draw(st.integers(1, prompt_limit(blocks)))
    cuts = data.draw(st.sets(st.integers(1, n), max_size=3)) | {0, n}
    cache, tokens, cuts = garbage_cache(graph, blocks), prompt_of(n, ar_len), sorted(cuts)
    for start, end in itertools.pairwise(cuts):
        logits = prefill(blocks, cache, tokens[start:end])
        cache.arranged_for(graph)  # as if it had been called in between
    assert_same((logits, cache), token_by_token(graph, tokens), graph)


@pytest.mark.parametrize("n", [1, 7, CONTEXT - 1])
def test_a_graph_as_long_as_the_context_reads_the_whole_prompt_at_once(graph, n):
    whole = graph.resized(CONTEXT)
    cache = garbage_cache(whole, graph)
    logits = prefill(whole, cache, prompt_of(n))
    assert_same((logits, cache), token_by_token(graph, prompt_of(n)), graph)


@pytest.mark.parametrize("ar_len", [1, 3, BLOCK, 8, CONTEXT - 1, CONTEXT])
def test_answers_do_not_depend_on_how_the_prompt_was_read(graph, ar_len):
    blocks = graph.resized(ar_len)
    for n in {1, min(ar_len, prompt_limit(blocks)), prompt_limit(blocks)}:
        expected = Generator(graph, graph, Sampler(0)).generate(prompt_of(n), 100, frozenset())
        found = Generator(blocks, graph, Sampler(0)).generate(prompt_of(n), 100, frozenset())
        assert found.token_ids == expected.token_ids
        assert len(found.token_ids) == CONTEXT + 1 - n


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_masks_of_every_type_give_the_same(graph, dtype):
    blocks = graph.resized(BLOCK)
    blocks.mask_dtype = dtype
    cache = garbage_cache(blocks, graph)
    logits = prefill(blocks, cache, prompt_of(12))
    assert_same((logits, cache), token_by_token(graph, prompt_of(12)), graph)


def test_forgotten_tokens_have_no_influence(graph):
    blocks, tokens = graph.resized(BLOCK), prompt_of(14)
    cache = garbage_cache(blocks, graph)
    prefill(blocks, cache, [*tokens[:6], 49, 48, 47, 46, 45, 44, 43])
    cache.keep(6)
    logits = prefill(blocks, cache, tokens[6:])
    assert_same((logits, cache), token_by_token(graph, tokens), graph)


@pytest.mark.parametrize(
    ("ar_len", "n", "seq_len", "named"),
    [
        (BLOCK, 20, 100, "has 20 tokens, at most 19 fit (max_seq_len 24, AR length 5, seq_len 100); shorten it"),
        (CONTEXT, 24, 100, "has 24 tokens, at most 23 fit (max_seq_len 24, AR length 24, seq_len 100)"),
        (1, 24, 100, "has 24 tokens, at most 23 fit (max_seq_len 24, AR length 1, seq_len 100)"),
        (BLOCK, 9, 9, "has 9 tokens, at most 8 fit (max_seq_len 24, AR length 5, seq_len 9)"),
    ],
)
def test_prompts_that_do_not_fit_are_refused_and_one_token_less_is_read(graph, ar_len, n, seq_len, named):
    blocks = graph.resized(ar_len)
    with pytest.raises(HexportError) as refusal:
        check_prompt(blocks, prompt_of(n), seq_len, "prompts[3]")
    assert str(refusal.value).startswith("prompts[3]: the prompt ")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    check_prompt(blocks, prompt_of(n - 1), seq_len, "prompts[3]")
    prefill(blocks, garbage_cache(blocks, graph), prompt_of(n - 1))


@pytest.mark.parametrize(
    ("prompt", "named"),
    [([], "the prompt has no tokens"), ([5, 50], "token id 50 is outside the program's vocabulary of 50")],
)
def test_prompts_without_meaning_are_refused(graph, prompt, named):
    with pytest.raises(HexportError, match=named):
        check_prompt(graph, prompt, 100, "prompts[0]")
