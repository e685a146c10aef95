"""This module gives what the evaluation of tasks feeds a model, as token ids: calibration data in the form of the later
questions.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from hexport.errors import HexportError
from hexport.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

# Without a limit, tasks give whole documents up to about this many tokens in all, each task its share. A data set may
# have millions, and ranges hardly move beyond a few thousand.
UNLIMITED_TOKENS = 8192


def task_samples(
    tokenizer: Tokenizer, tasks: dict[str, "Task"], limit: int | None, context_len: int
) -> tuple[list[list[int]], dict[str, dict]]:
    """Return samples of at most context_len ids, and per task the number of its documents and the SHA-256 of their
    texts.

    They come from the first `limit` documents of each task, in the task's order; without a limit, from about
    UNLIMITED_TOKENS tokens of all tasks. Texts are cut into the windows in which they are scored. Contexts stand with
    their right continuations, cut from the left. Raises HexportError where a task has no documents.
    """
    samples: list[list[int]] = []
    origin = {}
    share = -(-UNLIMITED_TOKENS // len(tasks))
    for name, task in tasks.items():
        texts, start = [], sum(map(len, samples))
        for requests in _documents(name, task, limit or share):  # a document has at least one token
            right = _right(task, requests)
            texts.append(right.args)
            samples += _fed(tokenizer, right, context_len)
            if limit is None and sum(map(len, samples)) - start >= share:
                break
        text = json.dumps(texts, ensure_ascii=False)
        origin[name] = {"documents": len(texts), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return samples, origin


def _documents(name: str, task: "Task", limit: int) -> Iterator[list["Instance"]]:
    """Yield the requests of each of a task's first documents."""
    if not len(task.eval_docs):
        raise HexportError(f"task {name} has no documents")
    task.build_all_requests(limit=limit)
    for _, requests in groupby(task.instances, key=attrgetter("doc_id")):
        yield sorted(requests, key=attrgetter("idx"))


def _right(task: "Task", requests: list["Instance"]) -> "Instance":
    """Return the request whose continuation is the right one; the first, where the data set does not say which is."""
    from lm_eval.api.instance import Instance

    first = requests[0]
    if first.request_type == "generate_until":
        return Instance("loglikelihood", first.doc, (first.args[0], _answer(task, first.doc)), 0)
    if len(requests) == 1:
        return first
    gold = task.doc_to_text(first.doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(first.doc)
    gold = gold[0] if isinstance(gold, list) else gold
    if isinstance(gold, str):
        return next((request for request in requests if request.args[1].strip() == gold.strip()), first)
    return requests[gold] if 0 <= gold < len(requests) else first


def _answer(task: "Task", doc: dict) -> str:
    """Return the answer that a task which generates text would like, behind its delimiter."""
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0] if target else ""
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return f"{task.config.target_delimiter}{target}"


def _fed(tokenizer: Tokenizer, request: "Instance", context_len: int) -> list[list[int]]:
    """Return the sequences that the evaluation of a request reads, by its own code. Their last tokens are only
    predicted.
    """
    import numpy as np

    from hexport.evaluation.lm_eval_model import EvaluationModel
    from hexport.evaluation.scores import TokenScores

    fed: list[list[int]] = []

    def listen(sequences: list[list[int]]) -> list[TokenScores]:
        fed.extend(sequence[:-1] for sequence in sequences)
        return [TokenScores(np.zeros(len(tokens) - 1), np.zeros(len(tokens) - 1, bool)) for tokens in sequences]

    getattr(EvaluationModel(tokenizer, context_len, listen), request.request_type)([request])
    return fed
