"""Write weights.safetensors: the scales and codes of weights for which a recipe asks for an algorithm."""

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
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/weights.safetensors")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, checkpoint: Path, tokens: Path, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    job.reads(files_of_model(checkpoint) | {"tokens.json": tokens})
    with job.made_once(output) as there:
        if there:
            return
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.quantization.tokens_file import read_tokens
        from hexport.quantization.weight_algorithms import coded_weights
        from hexport.quantization.weights_file import save_weights

        recipe = recipe_from(settings["recipe_spec"], settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        samples, folder = read_tokens(tokens).samples, output.with_suffix("")
        coded = coded_weights(model, samples, recipe, job.progress, folder)
        save_weights(output, coded, recipe=settings["recipe"], checkpoint=job.inputs["model.safetensors"])
        job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
