"""Lookahead decoding on the float decoder: always the tokens of plain greedy decoding, in fewer calls."""

import numpy as np
import pytest
from float_graph import FloatGraph, garbage_cache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import random_model

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.runtime.decode import Generation, Generator
from hexport.runtime.lookahead import Guesses, NgramPool, Size, check_lookahead, step_rows
from hexport.runtime.sampling import Sampler

MODELS = [
    "llama, llama3 scaling",
    "gemma3, listed layers slide, full layers scaled",
    "phi3, longrope with an attention factor, window, tied",
]
CONTEXT = 64
VOCABULARY = 50


@pytest.fixture(scope="module")
def graph_of(small_model):
    graphs = {}

    def load(name: str) -> FloatGraph:
        if name not in graphs:
            graphs[name] = FloatGraph.of(Checkpoint(small_model(name)[1]), 1, CONTEXT, np.float64)
        return graphs[name]

    return load


def plain(graph: FloatGraph, prompt: list[int], end: int, stop_ids=frozenset()) -> tuple[Generation, Generator]:
    generator = Generator(graph, graph, Sampler(0))
    return generator.generate(prompt, end, stop_ids), generator


def ahead(prefill: FloatGraph, decode: FloatGraph, size: Size, prompt, end, stop_ids=frozenset(), heard=None):
    generator = Generator(prefill, decode, Sampler(0), size)
    generator.cache = garbage_cache(prefill, decode)
    heard = [] if heard is None else heard
    return generator.generate(prompt, end, stop_ids, on_token=heard.append), generator


def assert_cache_of(generator: Generator, expected: Generator, n_tokens: int) -> None:
    """It holds the k and v that plain decoding has of all tokens but the last, as far as there are slots."""
    decode = generator.decode_graph
    n = generator.cache.n_past
    assert n == min(n_tokens - 1, decode.cache_len)
    found, true = generator.cache.arranged_for(decode), expected.cache.arranged_for(expected.decode_graph)
    for i in range(2 * decode.n_layers):
        where = (..., slice(n)) if i < decode.n_layers else (0, slice(None), slice(n))
        np.testing.assert_allclose(found[i][where], true[i][where], rtol=0, atol=1e-9)


@st.composite
def cases(draw):
    """Sizes, contexts so short that their end is often reached, prompts that often repeat themselves."""
    size = Size(draw(st.integers(2, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    ar_len = size.rows + draw(st.integers(0, 5))
    context_len = draw(st.integers(ar_len + 1, min(CONTEXT, ar_len + 24)))
    prefill_ar_len = min(context_len, draw(st.sampled_from([1, 2, 7, CONTEXT]) | st.integers(1, context_len)))
    limit = context_len - (1 if prefill_ar_len == context_len else prefill_ar_len)
    prefill_ar_len, limit = (prefill_ar_len, limit) if limit else (1, context_len - 1)
    piece = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6))
    prompt = (piece * limit)[: draw(st.integers(1, limit))]
    end = draw(st.just(context_len + 3) | st.integers(len(prompt) + 1, context_len + 1))
    return size, ar_len, context_len, prefill_ar_len, prompt, end


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_plain_greedy_decoding_up_to_the_last_position(graph_of, name):
    graph, gains, to_the_end = graph_of(name), [], []

    @settings(max_examples=70, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases(), stop=st.none() | st.integers(0, 30))
    def check(case, stop):
        size, ar_len, context_len, prefill_ar_len, prompt, end = case
        single = graph.resized(1, context_len)
        whole, _ = plain(single, prompt, end)
        # A stop token is one of the answer, at any place in it.
        stop_ids = frozenset() if stop is None else frozenset({whole.token_ids[stop % len(whole.token_ids)]})
        expected, plain_generator = plain(single, prompt, end, stop_ids)
        decode, heard = graph.resized(ar_len, context_len), []
        prefill = graph.resized(prefill_ar_len, context_len)
        found, generator = ahead(prefill, decode, size, prompt, end, stop_ids, heard)
        assert found.token_ids == heard == expected.token_ids
        assert found.decode_steps == decode.n_calls
        assert found.accepted_tokens == len(expected.token_ids) - 1 - decode.n_calls >= 0
        n_tokens = len(prompt) + len(found.token_ids)
        if found.decode_steps:
            assert_cache_of(generator, plain_generator, n_tokens)
        gains.append(found.accepted_tokens)
        to_the_end.append(n_tokens == context_len + 1)

    check()
    assert sum(gains) > 0
    assert sum(to_the_end) > 5


@pytest.mark.parametrize("n", [40, CONTEXT + 1])
def test_repetitive_text_is_answered_in_far_fewer_calls(tmp_path, n):
    """A model that hardly looks back falls into a loop, and a loop predicts itself; where the cache ends, too."""
    model = random_model("llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(0.05)
        layer.mlp.down_proj.weight.mul_(0.05)
    model.save_pretrained(tmp_path)
    graph, size, prompt = FloatGraph.of(Checkpoint(tmp_path), 1, CONTEXT, np.float64), Size(4, 3, 3), [3, 14, 15, 9]
    expected, _ = plain(graph, prompt, n)
    found, _ = ahead(graph, graph.resized(size.rows), size, prompt, n)
    assert found.token_ids == expected.token_ids
    assert (found.decode_steps + found.accepted_tokens) / found.decode_steps > 2


def test_every_token_of_an_answer_may_be_the_one_that_stops(graph_of):
    graph, size, prompt = graph_of(MODELS[0]), Size(3, 4, 4), [7, 8] * 6
    decode = graph.resized(size.rows)
    whole, _ = ahead(graph, decode, size, prompt, 50)
    assert whole.accepted_tokens > 3
    for end in range(len(prompt) + 1, 50):
        found, generator = ahead(graph, decode, size, prompt, end)
        assert found.token_ids == whole.token_ids[: end - len(prompt)]
        assert generator.cache.n_past == end - 1
    for token in set(whole.token_ids):
        found, generator = ahead(graph, decode, size, prompt, 50, frozenset({token}))
        assert found.token_ids == whole.token_ids[: whole.token_ids.index(token) + 1]
        assert generator.cache.n_past == len(prompt) + len(found.token_ids) - 1


@pytest.mark.parametrize("prefill_ar_len", [1, 3, 30, 40])
def test_the_whole_context_is_used_although_the_last_slots_are_the_calls_own(graph_of, prefill_ar_len):
    graph, size, context_len = graph_of(MODELS[1]), Size(5, 3, 3), 40
    prefill = graph.resized(prefill_ar_len, context_len)
    decode, prompt = graph.resized(size.rows + 3, context_len), [5, 6, 7, 8, 9] * 2
    found, generator = ahead(prefill, decode, size, prompt, 1000)
    expected, _ = plain(graph.resized(1, context_len), prompt, 1000)
    assert found.token_ids == expected.token_ids
    assert len(prompt) + len(found.token_ids) == context_len + 1
    assert generator.cache.n_past == decode.cache_len == 13


def test_an_answer_is_found_in_the_same_calls_each_time(graph_of):
    graph, size = graph_of(MODELS[2]), Size(4, 5, 2)
    first, again = (ahead(graph, graph.resized(size.rows), size, [1, 2, 3], 40)[0] for _ in range(2))
    assert (first.token_ids, first.decode_steps) == (again.token_ids, again.decode_steps)


@pytest.mark.parametrize(("ngram", "window", "gcap"), [(5, 8, 8), (2, 1, 1), (2, 3, 2), (4, 2, 5)])
def test_rows_are_laid_out_as_the_runner_lays_them_out(ngram, window, gcap):
    """lhd_token_generator.cpp: positions, and the parent of each row, from which it sees what the parent sees."""
    levels, positions, parents = ngram - 1, [], []
    for level in range(levels):
        for column in range(window):
            positions.append(level + column)
            parents.append(column - 1 if level == 0 else (level - 1) * window + column)
    for g in range(gcap):
        for i in range(levels):
            positions.append(i + 1)
            parents.append(0 if i == 0 else (window + g) * levels + i - 1)
    size = Size(ngram, window, gcap)
    assert len(parents) == size.rows
    layout = step_rows(size, size.rows + 2, n_front=1)
    expected = np.eye(size.rows + 2, dtype=bool)
    for row, parent in enumerate(parents):
        if parent >= 0:
            expected[row] |= expected[parent]
    np.testing.assert_array_equal(layout.sees, expected)
    assert layout.offsets.tolist() == [*positions, 0, 0]


def test_a_longer_front_costs_the_window_and_then_candidates():
    size = Size(ngram=4, window=2, gcap=3)  # 15 rows
    layouts = [step_rows(size, 16, n_front) for n_front in range(1, 17)]
    assert [layout.window.size for layout in layouts] == [6, 6, *[0] * 14]
    assert [len(layout.candidates) for layout in layouts] == [3] * 7 + [2] * 3 + [1] * 3 + [0] * 3
    for n_front, layout in enumerate(layouts, 1):
        front = np.arange(n_front)
        np.testing.assert_array_equal(layout.sees[:n_front, :n_front], np.tri(n_front, dtype=bool))
        np.testing.assert_array_equal(layout.offsets[:n_front], front - n_front + 1)
        for rows in layout.candidates:
            for i, row in enumerate(rows):
                assert set(np.flatnonzero(layout.sees[row])) == {*front, *rows[: i + 1]}


def test_the_pool_keeps_the_latest_ngrams_of_each_token_once():
    pool = NgramPool(Size(ngram=3, window=1, gcap=2))
    pool.add_text([1, 2, 3, 1, 2, 4], 6)
    assert pool.after(1) == [(2, 4), (2, 3)]
    assert (pool.after(2), pool.after(3), pool.after(4)) == ([(3, 1)], [(1, 2)], [])
    pool.add([1, 2, 3])
    assert pool.after(1) == [(2, 3), (2, 4)]
    pool.add([1, 9, 9])
    assert pool.after(1) == [(9, 9), (2, 3)]
    pool.add_text([5, 6, 7, 8, 9], 1)
    assert (pool.after(7), pool.after(6)) == ([(8, 9)], [])


def test_the_window_gives_its_columns_to_the_pool_and_moves_on_by_a_token():
    guesses = Guesses(Size(ngram=4, window=2, gcap=2), [0])
    guesses.window[:] = [[1, 2], [3, 4], [5, 6]]
    guesses.begin_at(9)
    guesses.advance(np.array([7, 8]))
    assert guesses.pool.after(9) == [(3, 5, 7)]
    assert guesses.pool.after(2) == [(4, 6, 8)]
    assert guesses.pool.after(1) == []
    assert guesses.window.tolist() == [[3, 4], [5, 6], [7, 8]]


def test_programs_that_are_too_small_and_temperatures_are_refused(graph_of):
    graph = graph_of(MODELS[0]).resized(16)
    check_lookahead(graph, Size(5, 2, 2), 0.0, "x.pte")
    with pytest.raises(HexportError, match=r"^x\.pte: ngram 5, window 2 and gcap 3 take 20 tokens a call") as refusal:
        check_lookahead(graph, Size(5, 2, 3), 0.0, "x.pte")
    assert "AR length 16" in str(refusal.value)
    with pytest.raises(HexportError, match=r"^x\.pte: temperature 0\.7: .*set temperature: 0"):
        check_lookahead(graph, Size(5, 2, 2), 0.7, "x.pte")
