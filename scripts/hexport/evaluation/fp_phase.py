"""The fp phase evaluates the float32 model on a model's tasks."""

from collections.abc import Mapping
from pathlib import Path

from hexport.decoder.last_states import prune
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.fp import fp_scores
from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
from hexport.evaluation.states import float_states
from hexport.evaluation.tasks import load_tasks
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import load_tokenizer


def fp_evaluation(
    checkpoint: Path, tokenizer: Path, local: Mapping[str, Path], settings: dict, states: Path, progress: Progress
) -> dict:
    """Return the content of fp.json. Raises HexportError where tasks cannot be loaded or are refused.

    checkpoint, tokenizer: model.safetensors and tokenizer.json, with their configs beside them. local: the files of
    tasks that are local texts. settings: as of scripts/evaluate_fp.py. states: the folder where the model's hidden
    states are kept.
    """
    context_len, canonical = settings["max_seq_len"], Checkpoint(checkpoint.parent)
    with progress.stage("tasks"):
        tasks = load_tasks(settings["tasks"], local, settings["num_fewshot"], settings.get("trusted"))
    kept = float_states(states, canonical, context_len)
    model = EvaluationModel(
        load_tokenizer(tokenizer.parent),
        context_len,
        lambda sequences: fp_scores(canonical, context_len, sequences, progress, kept),
    )
    with progress.stage("evaluate fp"):
        metrics = evaluate(tasks, model, settings["limit"])
    prune(states)
    return {
        "phase": "fp",
        "tasks": metrics,
        "tokens": model.scored_tokens,
        "limit": settings["limit"],
        "num_fewshot": settings["num_fewshot"],
        "context_len": context_len,
    }
