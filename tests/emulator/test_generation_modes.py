"""Programs of every mode on the HTP emulator: the same greedy answers and logits, and what a run says of them."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from blocks import read_blocks
from tiny_model import CONTEXT

from hexport.devices.answers import Answer, answer_prompts, result_facts
from hexport.devices.emulator import Run, load_generator
from hexport.errors import HexportError
from hexport.evaluation.device import read
from hexport.progress import Progress
from hexport.runtime.program import Graph, Program
from hexport.tokenizers.tokenizer import Tokenizer, load_tokenizer

BLOCK = 5
LOOKAHEAD = {"ngram": 3, "window": 2, "gcap": 1}  # 6 tokens a call
DECODE_BLOCK = 8  # the AR length of the graph that reads them
# Name -> mode, and AR lengths of its graphs.
PROGRAMS = {
    "hybrid": ("hybrid", {"prefill": BLOCK}),
    "whole prompt": ("hybrid", {"prefill": CONTEXT}),
    "lookahead": ("lookahead", {"prefill": BLOCK, "decode": DECODE_BLOCK}),
}
TEXT = b"Once upon a time"
# To be scored: some begin alike, and of whole contexts the last block begins within the one before it.
INPUTS = [TEXT[:3], TEXT[:9], TEXT[:9] + b"land", TEXT, TEXT[:14] + b"..", b"sea"]


@pytest.fixture(scope="session")
def programs(tiny, model, lowerings, keep) -> dict[str, Path]:
    def build(folder: Path) -> None:
        for name, (_, ar_lengths) in PROGRAMS.items():
            lowerings.write(folder / name / "program.pte", *model, **ar_lengths)

    folder = keep("modes", build)
    return {"kv": tiny.program, **{name: folder / name / "program.pte" for name in PROGRAMS}}


@pytest.fixture(scope="module")
def tokenizer(tiny) -> Tokenizer:
    return load_tokenizer(tiny.tokenizer.parent)


def run_of(name: str, **changes) -> Run:
    mode, _ = PROGRAMS.get(name, ("kv", {}))
    settings = {"mode": mode, "system_prompt": "", "temperature": 0.0, "seq_len": CONTEXT, "repeats": 1, "warmup": 0}
    return Run.of({**settings, **LOOKAHEAD, **changes})


def ask(path: Path, tokenizer: Tokenizer, prompts: list[str], run: Run) -> list[Answer]:
    generator = load_generator(path, run, Progress())
    return answer_prompts(path, generator, tokenizer, [prompts], run, Progress())[0]


def test_answers_do_not_depend_on_the_mode(programs):
    """At every block boundary, and up to the last position of the context."""
    found = {}
    for name, path in programs.items():
        generator = load_generator(path, run_of(name), Progress())
        for n in (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, CONTEXT - BLOCK):
            generator.cache.keep(0)
            answer = generator.generate([256, *TEXT][:n], 100, frozenset())
            found.setdefault(n, {})[name] = answer.token_ids
            assert len(answer.token_ids) == CONTEXT + 1 - n
        del generator, answer  # a program is loaded once at a time
    for n, answers in found.items():
        assert len({tuple(ids) for ids in answers.values()}) == 1, (n, answers)


def test_conversations_do_not_depend_on_the_mode(programs, tokenizer):
    found = {
        name: [answer.turn.generation.token_ids for answer in ask(path, tokenizer, ["On", "ce"], run_of(name))]
        for name, path in programs.items()
    }
    assert all(answers == found["kv"] for answers in found.values())


@pytest.mark.parametrize(("name", "temperature"), [("kv", 0.0), ("hybrid", 0.0), ("lookahead", 0.0), ("hybrid", 0.8)])
def test_a_conversation_answers_as_if_it_were_alone(programs, tokenizer, name, temperature):
    """In one load, between others that fill the context; at a temperature, in each repeat."""
    run, path = run_of(name, temperature=temperature, seq_len=CONTEXT + 1, repeats=2), programs[name]
    endless = dataclasses.replace(tokenizer, stop_ids=frozenset())

    def ids(conversations: list[list[str]]) -> list[list[list[int]]]:
        generator = load_generator(path, run, Progress())
        repeated = answer_prompts(path, generator, endless, conversations, run, Progress())
        return [[answer.turn.generation.token_ids for answer in answers] for answers in repeated]

    one, other = ["On", "ce"], ["sea"]
    expected = [[*of_one, *of_other, *of_one] for of_one, of_other in zip(ids([one]), ids([other]), strict=True)]
    assert ids([one, other, one]) == expected
    assert (expected[0] == expected[1]) == (temperature == 0)


def logits(graph: Graph, inputs: list[bytes]) -> np.ndarray:
    return np.concatenate(list(read(graph, [list(text) for text in inputs], Progress())))


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("hybrid", "kv_forward"),
        ("hybrid", "prefill_forward"),
        ("whole prompt", "prefill_forward"),
        ("lookahead", "kv_forward"),
    ],
)
def test_every_graph_scores_texts_alike(programs, name, graph):
    """Bit for bit as each text by itself, token by token."""
    one_by_one = Program(programs["kv"]).graph()
    expected = np.concatenate([read_blocks(one_by_one, list(text)) for text in INPUTS])
    np.testing.assert_array_equal(logits(Program(programs[name]).graph(graph), INPUTS), expected)


def test_what_texts_begin_with_is_read_once(programs, monkeypatch):
    graph, said = Program(programs["kv"]).graph(), []
    progress = Progress()
    monkeypatch.setattr(progress, "say", lambda line, **_: said.append(line))
    list(read(graph, [list(text) for text in INPUTS], progress))
    distinct = {text[: n + 1] for text in INPUTS for n in range(len(text))}
    assert said[-1].startswith(f"device: token {len(distinct)} of {len(distinct)}")


def test_a_text_longer_than_the_context_is_not_read(programs):
    with pytest.raises(ValueError, match="17 tokens do not fit into a context of 16"):
        logits(Program(programs["kv"]).graph(), [TEXT + b"!"])


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often graphs were called, by AR length."""
    counts, call = Counter(), Graph.call

    def counted(graph, *arguments, **options):
        counts[graph.ar_len] += 1
        return call(graph, *arguments, **options)

    monkeypatch.setattr(Graph, "call", counted)
    return counts


def test_what_lookahead_gained_is_in_the_result_and_only_there(programs, tokenizer, calls):
    """Text that repeats itself is what candidates are made of; this model goes on with some of it."""
    gained, run = [], run_of("lookahead")
    for prompts in (["On", "ce"], ["aaaa"], ["nonono"]):
        calls.clear()
        facts = result_facts([ask(programs["lookahead"], tokenizer, prompts, run)], run)
        for key in ("accepted_tokens", "decode_steps"):
            assert facts[key] == sum(entry[key] for entry in facts["prompts"])
        decoded = sum(entry["generated_tokens"] - 1 for entry in facts["prompts"])  # the first one is the prefill's
        assert facts["decode_steps"] == calls[DECODE_BLOCK]
        assert facts["accepted_tokens"] == decoded - calls[DECODE_BLOCK]
        gained.append(facts["accepted_tokens"])
    assert sum(gained) > 0
    facts = result_facts([ask(programs["hybrid"], tokenizer, ["On"], run_of("hybrid"))], run_of("hybrid"))
    assert not {"accepted_tokens", "decode_steps"} & (facts.keys() | facts["prompts"][0].keys())


def test_a_hybrid_program_runs_in_mode_kv(programs, tokenizer):
    (answer,) = ask(programs["hybrid"], tokenizer, ["Once upon a t"], run_of("kv"))  # too long for its blocks
    (expected,) = ask(programs["kv"], tokenizer, ["Once upon a t"], run_of("kv"))
    assert answer.turn.generation.token_ids == expected.turn.generation.token_ids


@pytest.mark.parametrize(
    ("name", "run", "named"),
    [
        ("hybrid", run_of("lookahead"), "the program's decode graph has AR length 1"),
        ("lookahead", run_of("lookahead", gcap=3), "ngram 3, window 2 and gcap 3 take 10 tokens a call"),
        ("lookahead", run_of("lookahead", temperature=0.5), "temperature 0.5: lookahead decoding"),
        ("lookahead", run_of("kv"), "mode kv needs kv_forward with AR length 1, here it has 8"),
        ("lookahead", run_of("hybrid"), "mode hybrid needs kv_forward with AR length 1, here it has 8"),
        (
            "hybrid",
            run_of("hybrid"),
            "prompts[0]: the prompt has 13 tokens, at most 11 fit (max_seq_len 16, AR length 5",
        ),
    ],
)
def test_what_does_not_fit_the_program_is_one_line(programs, tokenizer, name, run, named):
    with pytest.raises(HexportError) as refusal:
        ask(programs[name], tokenizer, ["Once upon a "], run)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
