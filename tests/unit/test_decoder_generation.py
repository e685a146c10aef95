"""The loop of mode kv, on the float decoder: greedy answers equal transformers', and end where they should."""

import pytest
import torch
from float_graph import FloatGraph

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.runtime.decode import check_prompt, generate
from hexport.runtime.sampling import sampler

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


def answer(graph, seq_len: int, stop_ids=frozenset()) -> list[int]:
    return generate(graph, PROMPT, seq_len, stop_ids, sampler(0)).token_ids


@pytest.mark.parametrize("seq_len", [5, 9, CONTEXT])
def test_prompt_and_answer_have_seq_len_tokens(model, graph, seq_len):
    assert answer(graph, seq_len) == continuation(model, seq_len - len(PROMPT))


def test_the_whole_context_can_be_read_and_nothing_beyond(model, graph):
    """The last token that is read stands at position CL - 1; the one that it gives still belongs to the answer."""
    heard = []
    result = generate(graph, PROMPT, 100, frozenset(), sampler(0), lambda *call: heard.append(call))
    assert result.token_ids == continuation(model, CONTEXT + 1 - len(PROMPT))
    assert heard == list(enumerate([*PROMPT, *result.token_ids[:-1]]))
    assert heard[-1][0] == CONTEXT - 1


def test_a_stop_token_ends_the_answer_and_is_its_last_token(model, graph):
    expected = continuation(model, 6)
    stop = next(token for token in expected[2:] if token not in expected[:2])
    ended = expected[: expected.index(stop) + 1]
    assert answer(graph, CONTEXT, frozenset({stop, 159})) == ended


def test_stop_tokens_in_the_prompt_do_not_stop(model, graph):
    expected = continuation(model, 3)
    assert not set(PROMPT) & set(expected)
    assert answer(graph, len(PROMPT) + 3, frozenset(PROMPT)) == expected


def test_an_answer_starts_from_an_empty_cache(graph):
    first = answer(graph, CONTEXT)
    generate(graph, [1, 2, 3], CONTEXT, frozenset(), sampler(0))
    assert answer(graph, CONTEXT) == first


def test_the_longest_prompt_leaves_room_for_an_answer(graph):
    longest = [5] * (CONTEXT - 1)
    check_prompt(graph, longest, 100, "prompts[0]")
    assert len(generate(graph, longest, 100, frozenset(), sampler(0)).token_ids) == 2


@pytest.mark.parametrize(
    ("prompt", "seq_len", "named"),
    [
        ([5] * CONTEXT, 100, "the prompt has 12 tokens, at most 11 fit (max_seq_len 12, AR length 1, seq_len 100)"),
        ([5] * 6, 6, "the prompt has 6 tokens, at most 5 fit"),
        ([], 8, "the prompt has no tokens"),
        ([5, 160], 8, "token id 160 is outside the program's vocabulary of 160"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(graph, prompt, seq_len, named):
    with pytest.raises(HexportError) as refusal:
        check_prompt(graph, prompt, seq_len, "prompts[3]")
    assert str(refusal.value).startswith("prompts[3]: ")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
