"""Write quant_attrs.json: the scales and zero points of a model's activations, calibrated layer by layer."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.script_job import ScriptJob, files_of_model
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"model": its name, "recipe": its name, "recipe_spec": the recipe\'s content}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--tokens", type=click.Path(path_type=Path), required=True, help="…/calibration/tokens.json")
@click.option("--weights", type=click.Path(path_type=Path), help="…/weights.safetensors, if the recipe has them")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, checkpoint: Path, tokens: Path, weights: Path | None, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    job.reads(files_of_model(checkpoint) | {"tokens.json": tokens, "weights.safetensors": weights})
    with job.made_once(output) as there:
        if there:
            return
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.quantization.calibration import calibrate
        from hexport.quantization.quant_attrs import save_quant_attrs
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.quantization.tokens_file import read_tokens
        from hexport.quantization.weights_file import weights_of

        data = read_tokens(tokens)
        recipe = recipe_from(settings["recipe_spec"], settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        coded = weights_of(weights, model, recipe, settings["recipe"])
        attrs = calibrate(model, data.samples, recipe, job.progress, coded)
        facts = {"model": settings["model"], "recipe": settings["recipe"], "calibration": data.facts}
        save_quant_attrs(output, attrs, checkpoint=job.inputs["model.safetensors"], **facts)
        job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
