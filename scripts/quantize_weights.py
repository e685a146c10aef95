"""Write weights.safetensors: the scales and codes of weights for which a recipe asks for an algorithm."""

from pathlib import Path

from hexport.script_command import checkpoint_option, job_command, tokens_option
from hexport.script_job import ScriptJob, files_of_model

SETTINGS = 'JSON: {"model": its name, "recipe": its name, "recipe_spec": the recipe\'s content}'


@job_command(SETTINGS)
@checkpoint_option
@tokens_option
def main(job: ScriptJob, checkpoint: Path, tokens: Path, output: Path) -> None:
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

        recipe = recipe_from(job.settings["recipe_spec"], job.settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        coded = coded_weights(model, read_tokens(tokens).samples, recipe, job.progress, output.with_suffix(""))
        save_weights(output, coded, recipe=job.settings["recipe"], checkpoint=job.inputs["model.safetensors"])
        job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
