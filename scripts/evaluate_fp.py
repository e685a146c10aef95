"""Write fp.json: what the float32 decoder reaches on the evaluation tasks, the reference for the other phases."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import verified, write_json, write_manifest
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"tasks": […], "limit": documents per task or null, "num_fewshot", "max_seq_len"}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--local", "texts", multiple=True, metavar="NAME=PATH", help="the file of a task that is a local text")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/evaluation/fp.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict, checkpoint: Path, tokenizer: Path, texts: tuple[str, ...], output: Path, log: Path | None
) -> None:
    progress = Progress(log)
    with progress.library_output_in_log():
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.evaluation.fp import fp_scores
        from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.tasks import load_tasks, task_inputs
        from hexport.tokenizers.tokenizer import load_tokenizer

        local = local_files(texts)
        inputs = verified(
            {
                checkpoint.name: checkpoint,
                "config.json": checkpoint.with_name("config.json"),
                tokenizer.name: tokenizer,
                "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json"),
                **task_inputs(local, settings.get("trusted")),
            }
        )
        # What a task of the Hub holds is in no input.
        with made_once([output], __file__, inputs, settings, progress, cached=False) as there:
            if there:
                return
            context_len = settings["max_seq_len"]
            canonical, loaded = Checkpoint(checkpoint.parent), load_tokenizer(tokenizer.parent)
            with progress.stage("tasks"):
                tasks = load_tasks(settings["tasks"], local, settings["num_fewshot"], settings.get("trusted"))
            model = EvaluationModel(
                loaded, context_len, lambda sequences: fp_scores(canonical, context_len, sequences, progress)
            )
            with progress.stage("evaluate fp"):
                metrics = evaluate(tasks, model, settings["limit"])
            write_json(
                output,
                {
                    "phase": "fp",
                    "tasks": metrics,
                    "tokens": model.scored_tokens,
                    "limit": settings["limit"],
                    "num_fewshot": settings["num_fewshot"],
                    "context_len": context_len,
                },
            )
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
