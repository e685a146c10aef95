"""The float phase: transformers' own log-likelihoods, however many sequences share a call."""

import re

import numpy as np
import pytest
import torch
from small_models import random_tokens, transformers_logits

from hexport.code_digest import SCRIPTS, import_closure
from hexport.decoder import stream
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.fp import fp_logits, fp_scores
from hexport.evaluation.scores import Scoring, token_scores
from hexport.progress import Progress

CONTEXT = 48
LENGTHS = (7, 33, 2, 21, 33)
FAMILIES = [
    "llama, all biases, linear scaling",
    "gemma3, listed layers slide, full layers scaled",
    "qwen3, upper layers slide, tied",
    "smollm3, layers without rope slide",
]


def sequences(vocab_size: int) -> list[list[int]]:
    tokens = random_tokens(vocab_size, sum(LENGTHS))
    starts = np.cumsum((0, *LENGTHS[:-1])).tolist()
    return [tokens[start : start + n] for start, n in zip(starts, LENGTHS, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_transformers_log_likelihoods(small_model, family):
    """All sequences fit into one call, in which each sees only itself."""
    model, folder = small_model(family)
    checkpoint = Checkpoint(folder)
    asked = sequences(checkpoint.config.vocab_size)
    for sequence, scores in zip(asked, fp_scores(checkpoint, CONTEXT, asked, Progress()), strict=True):
        logits = torch.from_numpy(transformers_logits(model, sequence[:-1])).double()
        targets = torch.tensor(sequence[1:])
        expected = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
        np.testing.assert_allclose(scores.log_probs, expected, atol=1e-4)
        assert scores.top.tolist() == (logits.argmax(1) == targets).tolist()


@pytest.mark.parametrize(("pack", "wave"), [(1, 1), (30, 40)])
def test_scores_do_not_depend_on_what_shares_a_call_or_a_pass(small_model, monkeypatch, pack, wave):
    checkpoint = Checkpoint(small_model(FAMILIES[1])[1])
    asked = sequences(checkpoint.config.vocab_size)
    together = fp_scores(checkpoint, CONTEXT, asked, Progress())
    monkeypatch.setattr(stream, "PACK_TOKENS", pack)
    monkeypatch.setattr(stream, "WAVE_TOKENS", wave)
    for a, b in zip(together, fp_scores(checkpoint, CONTEXT, asked, Progress()), strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
        assert a.top.tolist() == b.top.tolist()


def test_logits_are_transformers(small_model):
    model, folder = small_model(FAMILIES[3])
    asked = sequences(50)
    for sequence, logits in zip(asked, fp_logits(Checkpoint(folder), CONTEXT, asked, Progress()), strict=True):
        np.testing.assert_allclose(logits, transformers_logits(model, sequence), atol=1e-4)


def test_answers_to_one_question_are_read_once(small_model):
    checkpoint = Checkpoint(small_model(FAMILIES[0])[1])
    asked = [[4, 9, 2, answer] for answer in (7, 8, 7, 30)] + [[4, 9]]
    assert Scoring(asked).inputs == [(4,), (4, 9, 2)]
    alone = [fp_scores(checkpoint, CONTEXT, [sequence], Progress())[0] for sequence in asked]
    for a, b in zip(alone, fp_scores(checkpoint, CONTEXT, asked, Progress()), strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
        assert a.top.tolist() == b.top.tolist()


def test_scores_of_logits_in_many_chunks(monkeypatch):
    monkeypatch.setattr("hexport.evaluation.scores.CHUNK", 30)
    logits, tokens = np.random.default_rng(0).normal(size=(11, 9)).astype(np.float32), random_tokens(9, 12)
    scores = token_scores(logits, tokens)
    for i, token in enumerate(tokens[1:]):
        assert scores.log_probs[i] == pytest.approx(logits[i, token] - np.log(np.exp(logits[i].astype(float)).sum()))
        assert scores.top[i] == (logits[i].argmax() == token)


def test_ids_of_another_vocabulary_are_refused(small_model):
    checkpoint = Checkpoint(small_model(FAMILIES[0])[1])
    with pytest.raises(HexportError, match="token id 50, but the checkpoint's vocabulary has 50 entries") as refusal:
        fp_scores(checkpoint, CONTEXT, [[1, 50, 3]], Progress())
    assert "\n" not in str(refusal.value)


def test_progress_counts_layers(small_model, tmp_path):
    checkpoint = Checkpoint(small_model(FAMILIES[0])[1])
    fp_scores(checkpoint, CONTEXT, [[1, 2, 3]], Progress(tmp_path / "log"))
    log = (tmp_path / "log").read_text()
    assert all(f"evaluate: layer {i + 1} of {checkpoint.config.n_layers}" in log for i in range(4))
    assert "logits: block 1 of 1" in log


def test_time_left_is_that_of_all_parts_of_a_long_evaluation(small_model, monkeypatch, tmp_path):
    checkpoint = Checkpoint(small_model(FAMILIES[0])[1])
    monkeypatch.setattr(stream, "PACK_TOKENS", 1)
    monkeypatch.setattr(stream, "WAVE_TOKENS", 1)
    monkeypatch.setattr("hexport.progress.time.perf_counter", iter(range(10_000)).__next__)  # each look takes a second
    fp_scores(checkpoint, CONTEXT, [[1, 2, 3], [4, 5, 6], [7, 8, 9]], Progress(tmp_path / "log"))
    lines = (tmp_path / "log").read_text().splitlines()
    n = checkpoint.config.n_layers
    of_each = [[line for line in lines if f"evaluate, part {part} of 3: layer" in line] for part in (1, 2, 3)]
    assert [len(lines) for lines in of_each] == [n, n, n]
    left = [int(lines[-1].split()[-3]) for lines in of_each]
    assert left[0] > left[1] > left[2] > 0
    assert left[0] - left[2] == pytest.approx(2 * (left[0] - left[1]), abs=2)


def test_the_phase_needs_no_executorch():
    closure = import_closure(SCRIPTS / "evaluate_fp.py")
    assert any(path.name == "fp.py" for path in closure)
    assert [p for p in closure if re.search(r"^\s*(import|from) (executorch|torchao)", p.read_text(), re.M)] == []
