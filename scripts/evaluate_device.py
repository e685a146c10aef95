"""Write evaluation.json: what a program on a device reaches on the tasks of the config, and how near it is to the
float model and to the fake-quantised one on the same tokens."""

from pathlib import Path

import click

from hexport.config.devices import devices_at, read_devices
from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import verified, write_json, write_manifest
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"model", "recipe", "recipe_spec", "target", "mode", "graph": "prefill" or "kv", "tasks", "limit", '
    '"num_fewshot"}'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--devices", type=click.Path(path_type=Path), required=True, help="devices.yaml")
@click.option("--device", required=True, help="a name in it, or `phones` for any phone of the SoC")
@click.option("--program", type=click.Path(path_type=Path), required=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="…/model.safetensors; none to compare with nothing")
@click.option("--quant-attrs", type=click.Path(path_type=Path), help="of a built program")
@click.option("--weights", type=click.Path(path_type=Path), help="…/weights.safetensors, if the recipe has them")
@click.option("--fp", type=click.Path(path_type=Path), help="…/evaluation/fp.json, with --checkpoint")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--local", "texts", multiple=True, metavar="NAME=PATH", help="the file of a task that is a local text")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/evaluation.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict,
    devices: Path,
    device: str,
    program: Path,
    checkpoint: Path | None,
    quant_attrs: Path | None,
    weights: Path | None,
    fp: Path | None,
    tokenizer: Path,
    texts: tuple[str, ...],
    output: Path,
    log: Path | None,
) -> None:
    found = devices_at(read_devices(str(devices)), device, settings["target"])
    progress = Progress(log)
    compared = [] if checkpoint is None else [checkpoint, checkpoint.with_name("config.json"), fp]
    compared += [quant_attrs] if quant_attrs else []
    files = [program, *compared, tokenizer, tokenizer.with_name("tokenizer_config.json")]
    with progress.library_output_in_log():
        from hexport.devices.evaluation_job import EvaluationJob
        from hexport.evaluation.gates import agreement_warnings, perplexity_ratios, ratio_warnings
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.result_files import read_evaluation
        from hexport.evaluation.tasks import task_inputs

        local = local_files(texts)
        named = {file.name: file for file in files} | {"weights.safetensors": weights}
        inputs = verified(named | task_inputs(local, settings.get("trusted")))
        job = EvaluationJob(program, tokenizer, settings, local, checkpoint, quant_attrs, weights)
        if found[0].kind == "emulator":
            from hexport.devices.emulator_evaluations import evaluate_on_emulator

            measured = evaluate_on_emulator(found[0], job, progress)
        else:
            from hexport.devices.evaluations import evaluate_on_phones

            measured = evaluate_on_phones(found, job, progress)
        facts = {key: settings[key] for key in ("model", "recipe", "target", "mode", "limit", "num_fewshot")}
        facts |= {"phase": "device", "device": measured.device, **measured.facts}
        if checkpoint is not None:
            float_metrics = read_evaluation(fp)["tasks"]
            facts["perplexity_ratio"] = perplexity_ratios(facts["tasks"], float_metrics)
            for line in (*ratio_warnings(facts), *(agreement_warnings(facts) if quant_attrs else ())):
                progress.say(line)
        write_json(output, facts)
        write_manifest(
            output,
            script=__file__,
            device_kind=found[0].kind,
            inputs=inputs,
            params=settings,
            stages=progress.stages,
            versions=measured.versions,
            **measured.manifest,
        )


if __name__ == "__main__":
    main()
