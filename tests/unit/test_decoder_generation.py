"""Plain decoding, on the float decoder: greedy answers equal transformers', and end where they should."""

import pytest
import torch
from float_graph import FloatGraph

from hexport.decoder.weights import Checkpoint
from hexport.runtime.decode import Generation, Generator
from hexport.runtime.sampling import Sampler

CONTEXT = 12
PROMPT = [3, 99, 41, 7]


@pytest.fixture
def model(tiny_llama, tmp_path):
    model = tiny_llama(eos_token_id=None, bos_token_id=None)
    model.save_pretrained(tmp_path)
    return model


@pytest.fixture
def graph(model, tmp_path):
    return FloatGraph.of(Checkpoint(tmp_path), ar_len=1, context_len=CONTEXT)


def continuation(model, n: int) -> list[int]:
    output = model.generate(torch.tensor([PROMPT]), max_new_tokens=n, do_sample=False, pad_token_id=0)
    return output[0, len(PROMPT) :].tolist()


def generate(graph, prompt: list[int], end: int, stop_ids=frozenset(), heard: list | None = None) -> Generation:
    generator = Generator(graph, graph, Sampler(0))
    return generator.generate(prompt, end, stop_ids, on_token=(heard if heard is not None else []).append)


@pytest.mark.parametrize("end", [5, 9, CONTEXT])
def test_prompt_and_answer_have_as_many_tokens_as_asked(model, graph, end):
    assert generate(graph, PROMPT, end).token_ids == continuation(model, end - len(PROMPT))


def test_the_whole_context_can_be_read_and_nothing_beyond(model, graph):
    """The last token that is read stands at position CL - 1; the one that it gives still belongs to the answer."""
    heard = []
    result = generate(graph, PROMPT, 100, heard=heard)
    assert result.token_ids == heard == continuation(model, CONTEXT + 1 - len(PROMPT))
    assert graph.n_calls == CONTEXT
    assert (result.tokens_read, result.decode_steps, result.accepted_tokens) == (4, CONTEXT - 4, 0)


def test_a_stop_token_ends_the_answer_and_is_its_last_token(model, graph):
    expected = continuation(model, 6)
    stop = next(token for token in expected[2:] if token not in expected[:2])
    ended = expected[: expected.index(stop) + 1]
    assert generate(graph, PROMPT, CONTEXT, frozenset({stop, 159})).token_ids == ended


def test_a_stop_token_may_be_the_whole_answer(model, graph):
    (first,) = continuation(model, 1)
    result = generate(graph, PROMPT, CONTEXT, frozenset({first}))
    assert result.token_ids == [first]
    assert graph.n_calls == len(PROMPT)


def test_stop_tokens_in_the_prompt_do_not_stop(model, graph):
    expected = continuation(model, 3)
    assert not set(PROMPT) & set(expected)
    assert generate(graph, PROMPT, len(PROMPT) + 3, frozenset(PROMPT)).token_ids == expected


def test_what_the_cache_holds_of_the_text_is_not_read_again(graph):
    generator = Generator(graph, graph, Sampler(0))
    first = generator.generate(PROMPT, 8, frozenset())
    generator.cache.keep(3)
    again = generator.generate(PROMPT, 8, frozenset())
    assert again.token_ids == first.token_ids
    assert (first.tokens_read, again.tokens_read) == (4, 1)


def test_the_longest_prompt_leaves_room_for_an_answer(graph):
    assert len(generate(graph, [5] * (CONTEXT - 1), 100).token_ids) == 2
