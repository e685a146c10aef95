"""lm-eval's tasks on the float decoder: metrics as transformers' own logits give them."""

import json
import math

import datasets
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from small_models import random_tokens, transformers_logits
from word_tokenizer import BOS, EOS, save_word_tokenizer, words

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.fp import fp_scores
from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
from hexport.evaluation.tasks import load_tasks
from hexport.progress import Progress

FAMILY = "llama, all biases, linear scaling"
CONTEXT = 10
TEXT = [token % 48 for token in random_tokens(50, 37)]
QUESTIONS = [
    {"question": words(TEXT[i : i + 4]), "choices": [words(TEXT[i + 5 : i + 7]), words(TEXT[i + 7 : i + 9])]}
    for i in range(0, 24, 2)
]


@pytest.fixture
def evaluation_model(small_model, tmp_path):
    """`evaluation_model(**tokenizer config)`: the model that lm-eval sees, and the sequences that it asked for."""
    checkpoint = Checkpoint(small_model(FAMILY)[1])
    asked = []

    def build(context_len=CONTEXT, **config):
        def score(sequences):
            asked.append(sequences)
            return fp_scores(checkpoint, context_len, sequences, Progress())

        return EvaluationModel(save_word_tokenizer(tmp_path / "tokenizer", **config), context_len, score), asked

    return build


@pytest.fixture
def log_likelihood(small_model):
    """`log_likelihood(context, continuation)` of token ids, by one call of the transformers model."""
    model, _ = small_model(FAMILY)

    def compute(context, continuation):
        tokens = [*context, *continuation]
        logits = transformers_logits(model, tokens[:-1]).astype(float)
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return sum(log_probs[i - 1, tokens[i]] for i in range(len(context), len(tokens)))

    return compute


def multiple_choice(**changes) -> dict:
    config = {
        "task": "quiz",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(QUESTIONS)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 1.0},
    }
    return {"quiz": ConfigurableTask(config={**config, **changes})}


def windows(prefix: int, tokens: list[int]) -> list[tuple[list[int], list[int]]]:
    """Every token once, at most CONTEXT at a time behind one token of context; the last window is as long as can be,
    and scores what is left."""
    full = len(tokens) // CONTEXT * CONTEXT
    found = [((tokens[i - 1 : i] or [prefix]), tokens[i : i + CONTEXT]) for i in range(0, full, CONTEXT)]
    if full < len(tokens):
        found.append((tokens[len(tokens) - CONTEXT - 1 : full] or [prefix, *tokens[:full]], tokens[full:]))
    return found


@pytest.mark.parametrize(("config", "prefix"), [({}, BOS), ({"bos_token": None}, EOS)])
def test_perplexity_of_a_text_is_transformers(evaluation_model, log_likelihood, tmp_path, config, prefix):
    file = tmp_path / "text.txt"
    file.write_text(words(TEXT))
    model, _ = evaluation_model(**config)
    metrics = evaluate(load_tasks(["mine"], {"mine": file}, None), model, None)
    total = sum(log_likelihood(*window) for window in windows(prefix, TEXT))
    assert metrics["mine"]["word_perplexity"] == pytest.approx(math.exp(-total / len(TEXT)), rel=1e-4)
    assert model.scored_tokens == len(TEXT)


def test_choices_are_those_of_transformers(evaluation_model, log_likelihood):
    model, asked = evaluation_model()
    metrics = evaluate(multiple_choice(), model, None)["quiz"]
    right = right_norm = 0
    for question in QUESTIONS:
        context, *choices = (
            [int(w[1:]) for w in text.split()] for text in (question["question"], *question["choices"])
        )
        scores = [log_likelihood(context, choice) for choice in choices]
        lengths = [len(choice) for choice in question["choices"]]
        right += scores[0] > scores[1]
        right_norm += scores[0] / lengths[0] > scores[1] / lengths[1]
    assert metrics["acc"] == pytest.approx(right / len(QUESTIONS))
    assert metrics["acc_norm"] == pytest.approx(right_norm / len(QUESTIONS))
    assert 0 < right < len(QUESTIONS)
    assert [len(sequences) for sequences in asked] == [2 * len(QUESTIONS)]


def test_limit_counts_documents(evaluation_model):
    model, asked = evaluation_model()
    evaluate(multiple_choice(), model, 3)
    assert len(asked[0]) == 6


def requests(*arguments: tuple) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(arguments)]


def test_what_is_asked_twice_is_scored_once(evaluation_model):
    model, asked = evaluation_model()
    pair = words(TEXT[:3]), " " + words(TEXT[3:5])
    a, b, c = model.loglikelihood(requests(pair, (words(TEXT[1:4]), " w1"), pair))
    assert a == c != b
    assert sorted(map(len, asked[0])) == [4, 5]


def test_a_long_context_is_cut_from_the_left(evaluation_model, log_likelihood):
    model, _ = evaluation_model()
    [(found, _)] = model.loglikelihood(requests((words(TEXT[:20]), " " + words(TEXT[20:23]))))
    assert found == pytest.approx(log_likelihood(TEXT[23 - CONTEXT - 1 : 20], TEXT[20:23]), abs=1e-4)


def test_an_empty_context_is_bos(evaluation_model, log_likelihood):
    model, _ = evaluation_model()
    [(found, _)] = model.loglikelihood(requests(("", words(TEXT[:3]))))
    assert found == pytest.approx(log_likelihood([BOS], TEXT[:3]), abs=1e-4)


def test_bos_stands_in_front_where_the_tokenizer_adds_it(evaluation_model):
    model, asked = evaluation_model(add_bos_token=True)
    model.loglikelihood(requests((words([3, 4]), " w5"), ("<s> w3", " w5")))
    assert asked[0] == [[BOS, 3, 4, 5], [BOS, 3, 5]]


def test_greedy_says_whether_all_tokens_are_first_choices(evaluation_model, small_model):
    model, _ = evaluation_model()
    first = int(transformers_logits(small_model(FAMILY)[0], TEXT[:4])[-1].argmax())
    other = (first + 1) % 48
    answers = model.loglikelihood(requests((words(TEXT[:4]), f" w{first}"), (words(TEXT[:4]), f" w{other}")))
    assert first < 48
    assert [greedy for _, greedy in answers] == [True, False]


def test_a_continuation_longer_than_the_context_is_refused(evaluation_model):
    model, _ = evaluation_model()
    with pytest.raises(HexportError, match="a continuation of 11 tokens; it must have 1 to 10"):
        model.loglikelihood(requests(("w1", " " + words(TEXT[:11]))))


def test_tasks_that_generate_are_refused_before_anything_is_scored(evaluation_model):
    model, asked = evaluation_model()
    changes = {"output_type": "generate_until", "doc_to_choice": None, "metric_list": [{"metric": "exact_match"}]}
    tasks = {**multiple_choice(), "story": multiple_choice(**changes)["quiz"]}
    with pytest.raises(HexportError, match="task story generates text") as refusal:
        evaluate(tasks, model, None)
    assert "\n" not in str(refusal.value)
    assert asked == []


def test_a_tokenizer_without_bos_and_eos_is_refused(evaluation_model):
    with pytest.raises(HexportError, match="neither BOS nor EOS"):
        evaluation_model(bos_token=None, eos_token=None)


def test_fp_json(run_script, small_model, tmp_path):
    from evaluate_fp import main

    save_word_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text(words(TEXT))
    run_script(
        main,
        {"tasks": ["mine"], "limit": None, "num_fewshot": None, "max_seq_len": CONTEXT},
        checkpoint=small_model(FAMILY)[1] / "model.safetensors",
        tokenizer=tmp_path / "tokenizer" / "tokenizer.json",
        local=f"mine={tmp_path / 'text.txt'}",
        states=tmp_path / "states",
        output=tmp_path / "fp.json",
    )
    content = json.loads((tmp_path / "fp.json").read_text())
    assert (content["phase"], content["tokens"], content["limit"]) == ("fp", len(TEXT), None)
    assert content["tasks"]["mine"]["word_perplexity"] > 1
    manifest = json.loads((tmp_path / "fp.json.manifest.json").read_text())
    assert {"model.safetensors", "tokenizer.json", "tasks.mine"} <= manifest["inputs"].keys()


def test_examples_are_the_same_in_every_pass(evaluation_model):
    tasks = multiple_choice(num_fewshot=1, fewshot_split="test")
    for _ in range(2):
        model, asked = evaluation_model()
        evaluate(tasks, model, None)
    first, second = asked
    assert first == second != []
