"""Write qdq.json: what the fake-quantised decoder reaches on the evaluation tasks, and how near it is to the float32
decoder on the same tokens."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import verified, write_json, write_manifest
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"tasks": […], "limit": documents per task or null, "num_fewshot", "max_seq_len", "recipe": its name, '
    '"recipe_spec": its content}'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--quant-attrs", type=click.Path(path_type=Path), required=True, help="…/quant_attrs.json")
@click.option("--weights", type=click.Path(path_type=Path), help="…/weights.safetensors, if the recipe has them")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--local", "texts", multiple=True, metavar="NAME=PATH", help="the file of a task that is a local text")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/evaluation/qdq.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict,
    checkpoint: Path,
    quant_attrs: Path,
    weights: Path | None,
    tokenizer: Path,
    texts: tuple[str, ...],
    output: Path,
    log: Path | None,
) -> None:
    progress = Progress(log)
    with progress.library_output_in_log():
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.evaluation.gates import perplexity_ratios, ratio_warnings
        from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.qdq import QuantisedScores
        from hexport.evaluation.tasks import load_tasks, task_inputs
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.tokenizers.tokenizer import load_tokenizer

        local = local_files(texts)
        inputs = verified(
            {
                checkpoint.name: checkpoint,
                "config.json": checkpoint.with_name("config.json"),
                quant_attrs.name: quant_attrs,
                "weights.safetensors": weights,
                tokenizer.name: tokenizer,
                "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json"),
                **task_inputs(local, settings.get("trusted")),
            }
        )
        # What a task of the Hub holds is in no input.
        with made_once([output], __file__, inputs, settings, progress, cached=False) as there:
            if there:
                return
            context_len, limit = settings["max_seq_len"], settings["limit"]
            loaded, recipe = load_tokenizer(tokenizer.parent), recipe_from(settings["recipe_spec"], settings["recipe"])
            float_model = Checkpoint(checkpoint.parent, recipe.basis)
            attrs = quant_attrs_of(quant_attrs, weights, float_model, recipe, settings["recipe"])
            scores = QuantisedScores(float_model, attrs, recipe, context_len, progress)
            with progress.stage("tasks"):
                tasks = load_tasks(settings["tasks"], local, settings["num_fewshot"], settings.get("trusted"))
            model = EvaluationModel(loaded, context_len, scores)
            with progress.stage("evaluate qdq"):
                metrics = evaluate(tasks, model, limit)
                of_float = evaluate(tasks, EvaluationModel(loaded, context_len, scores.of_float), limit)
            facts = {
                "phase": "qdq",
                "recipe": settings["recipe"],
                "tasks": metrics,
                "perplexity_ratio": perplexity_ratios(metrics, of_float),
                **scores.comparison.as_json(),
                **scores.layers_as_json(),
                "tokens": model.scored_tokens,
                "limit": limit,
                "num_fewshot": settings["num_fewshot"],
                "context_len": context_len,
            }
            write_json(output, facts)
            for line in ratio_warnings(facts):
                progress.say(line)
            write_manifest(
                output,
                script=__file__,
                inputs=inputs,
                params=settings,
                stages=progress.stages,
                machine=machine(),
            )


if __name__ == "__main__":
    main()
