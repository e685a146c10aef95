"""Prompts as turns of one conversation, on the float decoder: each answer is that of the whole text, read afresh."""

import itertools

import numpy as np
import pytest
from float_graph import FloatGraph
from small_models import random_model
from test_chat import CHATML, GEMMA, save

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.conversation import Script, Turn, converse
from hexport.runtime.decode import Generator
from hexport.runtime.lookahead import Size
from hexport.runtime.sampling import Sampler

CONTEXT = 192
SIZE = Size(ngram=3, window=3, gcap=3)
# Like Qwen3's and SmolLM3's, it leaves the thoughts out of earlier answers: here, their first three letters.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A:' + m.content[3:] }}"
    "{% else %}{{ 'U:' + m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}A:"
)
# Earlier answers come back longer than they were.
GROWING = (
    "{% for m in messages %}{{ m.content * (3 if m.role == 'assistant' else 1) }}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)
TEMPLATES = {"ChatML": CHATML, "Gemma": GEMMA, "drops thoughts": FORGETFUL, "none": None}
PROMPTS = ["Hi", "and?", "So: why"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> FloatGraph:
    """Its answers are of ASCII, with broken UTF-8 here and there, which is other tokens when it is read again."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = save(folder, None)
    sizes = {"head_dim": 8, "num_hidden_layers": 2, "vocab_size": 270, "max_position_embeddings": CONTEXT}
    model = random_model("llama", **sizes)
    said = tokenizer.encode("".join(map(chr, range(32, 127))) + "é<|im_end|>")
    model.lm_head.weight[[token not in said for token in range(270)]] = 0
    model.save_pretrained(folder)
    return FloatGraph.of(Checkpoint(folder), 1, CONTEXT, np.float64)


def generator_of(graph: FloatGraph, mode: str, context_len: int = CONTEXT) -> Generator:
    single = graph.resized(1, context_len)
    match mode:
        case "kv":
            return Generator(single, single, Sampler(0))
        case "hybrid":
            return Generator(graph.resized(16, context_len), single, Sampler(0))
        case "whole prompt":
            return Generator(graph.resized(context_len, context_len), single, Sampler(0))
        case "lookahead":
            decode = graph.resized(SIZE.rows + 1, context_len)
            return Generator(graph.resized(16, context_len), decode, Sampler(0), SIZE)


def have(generator: Generator, tokenizer, prompts: list[str], seq_len: int, **options) -> list[Turn]:
    script = Script(tokenizer, options.get("system_prompt", ""), prompts)
    return list(converse(generator, script, seq_len, options.get("stop_ids", tokenizer.stop_ids), Progress()))


def text_of(tokenizer, prompts: list[str], turns: list[Turn]) -> list[int]:
    """Ids of the conversation up to the prompt after these turns."""
    if tokenizer.chat_template is None:
        ids = tokenizer.prompt_ids(prompts[0])
        for turn, prompt in zip(turns, prompts[1:], strict=False):
            ids += without_stop(tokenizer, turn) + tokenizer.encode(prompt)
        return ids
    messages = [{"role": "user", "content": prompts[0]}]
    for turn, prompt in zip(turns, prompts[1:], strict=False):
        messages += [{"role": "assistant", "content": turn.text}, {"role": "user", "content": prompt}]
    return tokenizer.encode(tokenizer.render(messages))


def without_stop(tokenizer, turn: Turn) -> list[int]:
    ids = turn.generation.token_ids
    return ids[:-1] if ids[-1] in tokenizer.stop_ids else ids


@pytest.mark.parametrize("mode", ["kv", "hybrid", "whole prompt", "lookahead"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_every_turn_equals_running_the_concatenated_text(graph, tmp_path, template, mode):
    tokenizer = save(tmp_path, template)
    turns = have(generator_of(graph, mode), tokenizer, PROMPTS, 140)
    assert [turn.prompt for turn in turns] == PROMPTS
    for i, turn in enumerate(turns):
        ids, answer = text_of(tokenizer, PROMPTS, turns[:i]), turn.generation.token_ids
        afresh = generator_of(graph, "kv").generate(ids, len(ids) + len(answer), tokenizer.stop_ids)
        assert answer == afresh.token_ids
        assert turn.text == tokenizer.decode(without_stop(tokenizer, turn))
    assert sum(len(turn.generation.token_ids) for turn in turns) > 20


@pytest.mark.parametrize("mode", ["kv", "hybrid", "lookahead"])
def test_what_the_conversation_held_before_is_neither_read_nor_counted_again(graph, tmp_path, mode):
    tokenizer = save(tmp_path, None)
    first, second, third = have(generator_of(graph, mode), tokenizer, PROMPTS, 150)
    assert [turn.prompt_tokens for turn in (first, second, third)] == [1 + 2, 4, 7]
    assert first.generation.tokens_read == 3
    for before, turn in ((first, second), (second, third)):
        unread = len(without_stop(tokenizer, before)) < len(before.generation.token_ids)  # the stop token stays unread
        assert turn.generation.tokens_read == turn.prompt_tokens + (0 if unread else 1)


def test_what_the_template_changes_is_read_again_and_what_stands_before_it_is_not(graph, tmp_path):
    tokenizer, prompts = save(tmp_path, FORGETFUL), ["Hello", "b"]
    first, second = have(generator_of(graph, "hybrid"), tokenizer, prompts, 100, stop_ids=frozenset())
    ids, kept = text_of(tokenizer, prompts, [first]), len([*b"U:Hello", "<|im_end|>", *b"A:"])
    assert ids[:kept] == text_of(tokenizer, prompts, []) and ids[kept] != first.generation.token_ids[0]
    assert second.generation.tokens_read == len(ids) - kept == second.prompt_tokens


def test_a_text_that_the_cache_holds_as_a_whole_is_answered_from_its_last_token(graph, tmp_path):
    tokenizer = save(tmp_path, "{{ messages[0].content }}")
    first, second = have(generator_of(graph, "hybrid"), tokenizer, ["Hello", "ignored"], 40, stop_ids=frozenset())
    n = min(len(first.generation.token_ids), len(second.generation.token_ids))
    assert first.generation.token_ids[:n] == second.generation.token_ids[:n]
    assert (second.generation.tokens_read, second.prompt_tokens) == (1, 0)


def test_a_graph_as_long_as_the_context_reads_everything_again(graph, tmp_path):
    tokenizer = save(tmp_path, None)
    turns = have(generator_of(graph, "whole prompt"), tokenizer, PROMPTS, 60)
    for i, turn in enumerate(turns):
        assert turn.generation.tokens_read == len(text_of(tokenizer, PROMPTS, turns[:i]))


@pytest.mark.parametrize("seq_len", [13 + 3, 13 + 3 + 11, 100, 190, 250])
@pytest.mark.parametrize("mode", ["kv", "hybrid", "lookahead", "whole prompt"])
def test_answers_share_the_room_that_all_prompts_leave(graph, tmp_path, mode, seq_len):
    """13 tokens are the prompts'. None stops, so all is used up; the answers differ by the remainder at most."""
    tokenizer, context_len = save(tmp_path, None), 192
    turns = have(
        generator_of(graph, mode, context_len), tokenizer, ["Hi", "and?", "So: wh"], seq_len, stop_ids=frozenset()
    )
    lengths = [len(turn.generation.token_ids) for turn in turns]
    assert 13 + sum(lengths) == min(seq_len, context_len + 1)
    assert max(lengths) - min(lengths) <= 1 or (seq_len >= 190 and lengths[0] == lengths[1] <= lengths[2])


@pytest.mark.parametrize("n_said", [0, 10, 49])
def test_room_that_an_answer_leaves_goes_to_the_next_ones(graph, tmp_path, n_said):
    """Half of 100 tokens is the first answer's; it ends before, or with the last of them. The second one does not."""
    tokenizer = save(tmp_path, None)
    said, stop = tokenizer.encode("as")
    first_answer = [said] * n_said + [stop]
    generator, answers = generator_of(graph, "kv"), itertools.chain(first_answer, itertools.repeat(said))
    generator.sample = lambda logits: next(answers)
    first, second = have(generator, tokenizer, ["Hi", "and?"], 107, stop_ids=frozenset({stop}))
    assert (first.generation.token_ids, first.text) == (first_answer, "a" * n_said)
    assert second.generation.token_ids == [said] * (100 - n_said)  # 107 tokens in all; the stop token is not kept


def test_one_prompt_may_fill_seq_len_and_the_context(graph, tmp_path):
    tokenizer = save(tmp_path, None)
    for seq_len, expected in ((10, 10), (190, 190), (1000, CONTEXT + 1)):
        (turn,) = have(generator_of(graph, "hybrid"), tokenizer, ["Hi"], seq_len, stop_ids=frozenset())
        assert 3 + len(turn.generation.token_ids) == expected


def test_the_system_prompt_stands_in_front_of_the_whole_conversation(graph, tmp_path):
    tokenizer, heard = save(tmp_path, CHATML), []
    generator = generator_of(graph, "hybrid")
    generator.sample = lambda logits: heard.append(logits) or int(logits.argmax())
    turns = have(generator, tokenizer, ["a", "b"], 150, system_prompt="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    messages += [{"role": "assistant", "content": turns[0].text}, {"role": "user", "content": "b"}]
    ids = tokenizer.encode(tokenizer.render(messages))
    afresh = generator_of(graph, "kv").generate(ids, len(ids) + 1, frozenset())
    assert turns[1].generation.token_ids[0] == afresh.token_ids[0]


@pytest.mark.parametrize(
    ("mode", "prompts", "seq_len", "named"),
    [
        (
            "kv",
            ["a" * 191],
            999,
            "prompts[0]: the prompt has 192 tokens, at most 191 fit (max_seq_len 192, AR length 1,",
        ),
        ("kv", ["Hi", "a" * 8], 12, "prompts[1]: the conversation up to this prompt has 12 tokens, at most 11 fit"),
        (
            "hybrid",
            ["Hi", "a" * 173],
            999,
            "prompts[1]: the conversation up to this prompt has 177 tokens, at most 176",
        ),
        ("lookahead", ["Hi", "b", "a" * 171], 999, "prompts[2]: the conversation up to this prompt has 177 tokens, at"),
        (
            "whole prompt",
            ["Hi", "a" * 188],
            999,
            "prompts[1]: the conversation up to this prompt has 192 tokens, at most",
        ),
        ("kv", ["Hi", ""], 99, "prompts[1]: the prompt has no tokens"),
    ],
)
def test_prompts_that_cannot_fit_are_refused_before_any_runs(graph, tmp_path, mode, prompts, seq_len, named):
    tokenizer, generator = save(tmp_path, None), generator_of(graph, mode)
    with pytest.raises(HexportError) as refusal:
        have(generator, tokenizer, prompts, seq_len)
    assert str(refusal.value).startswith(named)
    assert "\n" not in str(refusal.value)
    assert generator.prefill_graph.n_calls == generator.decode_graph.n_calls == 0
    if prompts[-1]:
        *earlier, last = prompts
        assert len(have(generator, tokenizer, [*earlier, last[1:]], seq_len)) == len(prompts)


def test_a_conversation_that_outgrows_its_room_is_one_line(graph, tmp_path):
    tokenizer = save(tmp_path, GROWING)
    with pytest.raises(
        HexportError, match=r"^prompts\[1\]: the conversation up to this prompt has \d+ tokens"
    ) as refusal:
        have(generator_of(graph, "kv"), tokenizer, ["Hi", "and?"], 40, stop_ids=frozenset())
    assert "at most 39 fit" in str(refusal.value)
