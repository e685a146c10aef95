"""Write sensitivity.yaml, the parts of a model that are worth more bits, and sensitivity.json, the gains of all."""

from dataclasses import asdict
from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import write_json, write_text
from hexport.script_job import ScriptJob, files_of_model
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"model": its name, "recipe": its name, "recipe_spec": the recipe\'s content}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--tokens", type=click.Path(path_type=Path), required=True, help="…/calibration/tokens.json")
@click.option("--quant-attrs", type=click.Path(path_type=Path), required=True, help="…/quant_attrs.json")
@click.option("--weights", type=click.Path(path_type=Path), help="…/weights.safetensors, if the recipe has them")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/sensitivity.yaml")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict,
    checkpoint: Path,
    tokens: Path,
    quant_attrs: Path,
    weights: Path | None,
    output: Path,
    log: Path | None,
) -> None:
    job = ScriptJob(__file__, settings, log)
    quantised = {"quant_attrs.json": quant_attrs, "weights.safetensors": weights}
    job.reads(files_of_model(checkpoint) | {"tokens.json": tokens} | quantised)
    with job.progress.library_output_in_log():
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.evaluation.sensitivity import overrides_yaml, sensitivity
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.quantization.tokens_file import read_tokens

        samples = read_tokens(tokens).samples
        recipe = recipe_from(settings["recipe_spec"], settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        attrs = quant_attrs_of(quant_attrs, weights, model, recipe, settings["recipe"])
        found = sensitivity(model, attrs, recipe, samples, job.progress)
        write_text(output, overrides_yaml(found, settings["model"], settings["recipe"]))
        table = output.with_suffix(".json")
        write_json(table, asdict(found))
        job.write_manifest(output, table, machine=machine())


if __name__ == "__main__":
    main()
