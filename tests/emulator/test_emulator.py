"""Programs on the HTP emulator: the same logits and answers as the fake-quantised float graph."""

import copy
import dataclasses

import numpy as np
import pytest
from tiny_model import CONTEXT, VOCABULARY, sqnr_db

from hexport.devices.answers import FIGURES, answer_prompts, result_facts
from hexport.devices.emulator import Run, load_generator
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.decode import Generator
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.masks import coded_masks
from hexport.runtime.prefill import read_block
from hexport.runtime.program import Program
from hexport.runtime.sampling import Sampler
from hexport.tokenizers.tokenizer import load_tokenizer

# A text of the calibration data, so that nothing is clipped; as long as the context, so that every slot is used.
TOKENS = [256, *b"Once upon a time"][:CONTEXT]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny.tokenizer.parent)


def logits_of(graph, cache: KVCache, tokens: list[int]) -> np.ndarray:
    return np.stack([read_block(graph, cache, [token]) for token in tokens])


def generate(graph, tokens: list[int], end: int, sample=None) -> list[int]:
    return Generator(graph, graph, sample or Sampler(0)).generate(tokens, end, frozenset()).token_ids


def test_logits_of_every_position_equal_the_qdq_graphs_within_noise(graph, qdq):
    expected = qdq(TOKENS)
    found = logits_of(graph, KVCache(graph), TOKENS)
    assert sqnr_db(expected, found) > 35
    np.testing.assert_array_equal(found.argmax(axis=-1), expected.argmax(axis=-1))
    # The model is one whose logits depend on what stands before a token.
    alone = np.concatenate([qdq([token]) for token in TOKENS[1:]])
    assert sqnr_db(expected[1:], alone) < 10


def test_greedy_answers_equal_the_qdq_graphs(graph, qdq):
    tokens = TOKENS[:6]
    while len(tokens) < CONTEXT + 1:
        tokens.append(int(qdq(tokens)[-1].argmax()))
    assert generate(graph, TOKENS[:6], 100) == tokens[6:]


def test_what_is_masked_has_no_influence_and_what_is_attended_has(graph):
    garbage, clean = KVCache(graph), KVCache(graph)
    for array in garbage.arrays:
        array[:] = np.random.default_rng(0).integers(0, 65536, array.shape, np.uint16)
    expected = logits_of(graph, clean, TOKENS[:8])
    np.testing.assert_array_equal(logits_of(graph, garbage, TOKENS[:8]), expected)
    (mask,) = coded_masks(graph, 8)
    mask[..., 8] = 65535  # a slot that holds garbage
    logits, _ = graph.call(np.array([[TOKENS[8]]], np.int32), [mask], np.array([[8]], np.int32), garbage.arrays)
    assert sqnr_db(read_block(graph, clean, [TOKENS[8]]), logits) < 30


def test_a_sampler_gets_dequantised_logits(graph, qdq):
    heard = []

    def sample(logits):
        heard.append(logits.copy())
        return TOKENS[4 + len(heard)]

    generate(graph, TOKENS[:5], 8, sample)
    assert sqnr_db(qdq(TOKENS[:7])[4:], np.stack(heard)) > 35


def repeated(tiny, tokenizer, prompts, **changes):
    settings = {"mode": "kv", "system_prompt": "", "temperature": 0.0, "seq_len": CONTEXT, "repeats": 1, "warmup": 0}
    run = Run.of(settings | changes)
    generator = load_generator(tiny.program, run, Progress())
    return answer_prompts(tiny.program, generator, tokenizer, [prompts], run, Progress()), run


def answers(tiny, tokenizer, prompts, **changes):
    return repeated(tiny, tokenizer, prompts, **changes)[0][0]


def test_prompts_are_turns_of_one_conversation(tiny, tokenizer):
    endless = dataclasses.replace(tokenizer, stop_ids=frozenset())
    first, second = (answer.turn for answer in answers(tiny, endless, ["Once", " the"]))
    graph = Program(tiny.program).graph()
    read = [256, *tokenizer.encode("Once")]
    for turn, room in ((first, 3), (second, 4)):  # 9 tokens are the prompts'
        assert turn.generation.token_ids == generate(graph, read, len(read) + room)
        assert turn.text == tokenizer.decode(turn.generation.token_ids)
        read += [*turn.generation.token_ids, *tokenizer.encode(" the")]
    assert (first.prompt_tokens, second.prompt_tokens) == (5, 4)
    assert second.generation.tokens_read == 5  # the last token of the answer too


def test_what_result_json_says_of_an_answer(tiny, tokenizer):
    facts = result_facts(*repeated(tiny, tokenizer, ["Once"]))
    assert facts.keys() == {"prompts"}
    (entry,) = facts["prompts"]
    assert (entry["prompt"], entry["prompt_tokens"], entry["generated_tokens"]) == ("Once", 5, len(entry["token_ids"]))
    assert entry.keys() == {
        *("conversation", "prompt", "prompt_tokens", "generated_tokens", "text", "token_ids"),
        *("load_ms", "ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s"),
    }
    assert entry["prefill_tokens_per_s"] == pytest.approx(5e3 / entry["ttft_ms"], rel=1e-3)


def test_a_repeated_run_gives_medians_spread_and_samples(tiny, tokenizer):
    prompts = ["Once", " the"]
    facts = result_facts(*repeated(tiny, tokenizer, prompts, repeats=3, warmup=1))
    assert [entry["token_ids"] for entry in facts["prompts"]] == [
        answer.turn.generation.token_ids for answer in answers(tiny, tokenizer, prompts)
    ]
    repeats = facts["repeats"]
    assert (repeats["repeats"], repeats["warmup"], repeats["same_answers"]) == (3, 1, True)
    for entry, figures in zip(facts["prompts"], repeats["prompts"], strict=True):
        for figure in FIGURES:
            low, middle, high = sorted(figures[figure]["samples"])
            assert entry[figure] == figures[figure]["median"] == middle
            assert figures[figure]["spread"] == pytest.approx(high - low, abs=1e-3)
    assert len(set(repeats["prompts"][0]["ttft_ms"]["samples"])) == 3  # each is measured anew


def test_a_stop_token_ends_the_answer_and_is_not_in_its_text(tiny, tokenizer):
    (whole,) = answers(tiny, tokenizer, ["Once"])
    ids = whole.turn.generation.token_ids
    stop = next(token for token in ids[2:] if token not in ids[:2])
    length = ids.index(stop) + 1
    stopping = dataclasses.replace(tokenizer, stop_ids=frozenset({stop}))
    (answer,) = answers(tiny, stopping, ["Once"])
    assert answer.turn.generation.token_ids == ids[:length]
    assert answer.turn.text == tokenizer.decode(ids[: length - 1])


def test_a_temperature_draws_the_same_tokens_from_the_same_seed_and_not_the_greedy_ones(tiny, tokenizer):
    runs = [answers(tiny, tokenizer, ["Once"], temperature=temperature) for temperature in (0.0, 5.0, 5.0)]
    greedy, drawn, again = (run[0].turn.generation.token_ids for run in runs)
    assert drawn == again != greedy


@pytest.mark.parametrize("mode", ["hybrid", "lookahead"])
def test_a_mode_that_the_program_was_not_made_for_is_refused(tiny, tokenizer, mode):
    with pytest.raises(HexportError, match=rf"mode {mode} needs prefill_forward, which this program lacks") as refusal:
        answers(tiny, tokenizer, ["Once"], mode=mode, ngram=2, window=1, gcap=1)
    assert "\n" not in str(refusal.value)


def test_prompts_that_do_not_fit_are_refused_before_any_runs(tiny, tokenizer, capsys):
    named = r"^prompts\[1\]: the conversation up to this prompt has 22 tokens, at most 15 fit"
    with pytest.raises(HexportError, match=named) as refusal:
        answers(tiny, tokenizer, ["Once", "Once upon a time"], seq_len=100)
    assert "\n" not in str(refusal.value)
    assert "prompt 1" not in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(tiny, tokenizer):
    backend = copy.deepcopy(tokenizer.backend)
    backend.add_tokens(["one token more"])
    with pytest.raises(HexportError, match=f"knows {VOCABULARY} tokens, the tokenizer {VOCABULARY + 1}"):
        answers(tiny, dataclasses.replace(tokenizer, backend=backend), ["Once"])


@pytest.mark.parametrize("damage", ["cut short", "text", "empty"])
def test_what_is_no_program_is_refused_in_one_line(tiny, tmp_path, damage):
    content = tiny.program.read_bytes()
    content = {"cut short": content[: len(content) // 2], "text": b"no program" * 100, "empty": b""}[damage]
    (tmp_path / "broken.pte").write_bytes(content)
    with pytest.raises(HexportError, match=r"broken\.pte: ") as refusal:
        Program(tmp_path / "broken.pte").graph()
    assert "\n" not in str(refusal.value)


def test_a_method_that_is_not_there_is_named(tiny):
    with pytest.raises(HexportError, match=r"method prefill_forward is missing; found: .*kv_forward"):
        Program(tiny.program).graph("prefill_forward")
