"""The qdq phase evaluates the fake-quantised model, and the float32 model on the same tokens."""

from collections.abc import Mapping
from pathlib import Path

from hexport.decoder.last_states import prune
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.gates import perplexity_ratios
from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
from hexport.evaluation.qdq import QuantisedScores
from hexport.evaluation.states import quantised_states
from hexport.evaluation.tasks import load_tasks
from hexport.progress import Progress
from hexport.quantization.quant_attrs_checks import quant_attrs_of
from hexport.quantization.recipe_checks import recipe_from
from hexport.tokenizers.tokenizer import load_tokenizer


def qdq_evaluation(
    model: tuple[Path, Path, Path | None],
    tokenizer: Path,
    local: Mapping[str, Path],
    settings: dict,
    states: Path,
    progress: Progress,
) -> dict:
    """Return the content of qdq.json. Raises HexportError where the files do not belong together, and where tasks
    cannot be loaded or are refused.

    model: model.safetensors, quant_attrs.json and, if the recipe has them, weights.safetensors. The rest as of
    `fp_phase.fp_evaluation`; settings: as of scripts/evaluate_qdq.py.
    """
    checkpoint, quant_attrs, weights = model
    context_len, limit = settings["max_seq_len"], settings["limit"]
    recipe = recipe_from(settings["recipe_spec"], settings["recipe"])
    canonical, loaded = Checkpoint(checkpoint.parent, recipe.basis), load_tokenizer(tokenizer.parent)
    attrs = quant_attrs_of(quant_attrs, weights, canonical, recipe, settings["recipe"])
    kept = quantised_states(states, canonical, (quant_attrs, weights), recipe, context_len)
    scores = QuantisedScores(canonical, attrs, recipe, context_len, progress, kept)
    with progress.stage("tasks"):
        tasks = load_tasks(settings["tasks"], local, settings["num_fewshot"], settings.get("trusted"))
    quantised = EvaluationModel(loaded, context_len, scores)
    with progress.stage("evaluate qdq"):
        metrics = evaluate(tasks, quantised, limit)
        of_float = evaluate(tasks, EvaluationModel(loaded, context_len, scores.of_float), limit)
    prune(states)
    return {
        "phase": "qdq",
        "recipe": settings["recipe"],
        "tasks": metrics,
        "perplexity_ratio": perplexity_ratios(metrics, of_float),
        **scores.comparison.as_json(),
        **scores.layers_as_json(),
        "tokens": quantised.scored_tokens,
        "limit": limit,
        "num_fewshot": settings["num_fewshot"],
        "context_len": context_len,
    }
