"""This module shows a model to lm-eval: its tasks ask for log-likelihoods of texts, and a `score` function answers with
token scores.

Windows, prefix tokens and truncation are those of lm-eval's own Hugging Face model, so that figures compare with
published ones.
"""

import math
from collections.abc import Callable

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate as lm_eval_evaluate
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from hexport.errors import HexportError
from hexport.evaluation.scores import TokenScores
from hexport.tokenizers.tokenizer import Tokenizer

Score = Callable[[list[list[int]]], list[TokenScores]]
Metrics = dict[str, dict[str, float | None]]


class EvaluationModel(TemplateLM):
    """The model scores what a task asks for by `score`, which gets the sequences of all requests of a kind at once,
    each once.

    Sequences have 2 to context_len + 1 tokens. `scored_tokens` counts the tokens that tasks asked for. Raises
    HexportError for a tokenizer with neither BOS nor EOS, and for a continuation that is empty or longer than
    context_len.
    """

    def __init__(self, tokenizer: Tokenizer, context_len: int, score: Score):
        super().__init__()
        self._tokenizer, self._context_len, self._score = tokenizer, context_len, score
        self.scored_tokens = 0
        self._prefix = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if self._prefix is None:
            raise HexportError("evaluation: the tokenizer has neither BOS nor EOS to start a text with")

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        """Return the ids of a text, with BOS in front where the tokenizer adds one and the text does not start with it
        by itself.
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._tokenizer.decode([self._prefix]))
        return self._tokenizer.encode(string, bos=add_special_tokens and self._tokenizer.adds_bos)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether all of its tokens are first choices."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihoods of whole texts, in windows that do not overlap, each with one token of context."""
        windows = [self._windows(*request.args) for request in requests]
        answers = iter(self._loglikelihood_tokens([(None, *window) for of_text in windows for window in of_text]))
        return [sum(next(answers)[0] for _ in of_text) for of_text in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Raise HexportError: text is not generated."""
        raise _generates(requests[0].task_name)

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(self.tok_encode(text), self._prefix, self._context_len, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def _loglikelihood_tokens(self, requests, **_) -> list[tuple[float, bool]]:
        """Answer requests of (texts, context tokens, continuation tokens). What is too long is cut from the left."""
        sequences = []
        for _, context, continuation in requests:
            if not 0 < len(continuation) <= self._context_len:
                raise HexportError(
                    f"evaluation: a continuation of {len(continuation)} tokens; it must have 1 to {self._context_len}, "
                    "the model's max_seq_len: choose another task or context length"
                )
            sequences.append(tuple((context + continuation)[-self._context_len - 1 :]))
            self.scored_tokens += len(continuation)
        distinct = list(dict.fromkeys(sequences))
        scores = dict(zip(distinct, self._score([list(tokens) for tokens in distinct]), strict=True))
        return [
            (float(scores[tokens].log_probs[-len(asked) :].sum()), bool(scores[tokens].top[-len(asked) :].all()))
            for tokens, (_, _, asked) in zip(sequences, requests, strict=True)
        ]


def evaluate(tasks: dict, model: EvaluationModel, limit: int | None) -> Metrics:
    """Return metrics by task (and group of tasks) and name, such as word_perplexity, acc, acc_norm; None if not finite.

    `tasks` are lm-eval's task objects by name, or what its TaskManager loads. `limit` is the number of documents per
    task, None for all. Raises HexportError for tasks that generate text.
    """
    for name, task in tasks.get("tasks", tasks).items():
        if task.OUTPUT_TYPE == "generate_until":
            raise _generates(name)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)  # examples are drawn anew each time, and have to be the same ones
    results = lm_eval_evaluate(model, tasks, limit=limit, bootstrap_iters=0, log_samples=False)
    return {name: _plain(values) for name, values in {**results["results"], **results.get("groups", {})}.items()}


def _plain(values: dict) -> dict[str, float | None]:
    """Return the metrics alone: lm-eval names a metric `metric,filter`, and puts errors and labels beside it."""
    metrics = {}
    for key, value in values.items():
        metric, _, filtered = key.partition(",")
        if filtered and not metric.endswith("_stderr") and isinstance(value, int | float):
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            metrics[name] = float(value) if math.isfinite(value) else None
    return metrics


def _generates(task: str | None) -> HexportError:
    return HexportError(
        f"evaluation: task {task} generates text; only tasks scored by log-likelihood, as perplexity and "
        "multiple choice are, can be evaluated"
    )
