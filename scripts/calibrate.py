"""Write quant_attrs.json: the scales and zero points of a model's activations, calibrated layer by layer."""

from pathlib import Path

from hexport.script_command import checkpoint_option, job_command, tokens_option, weights_option
from hexport.script_job import ScriptJob, files_of_model

SETTINGS = 'JSON: {"model": its name, "recipe": its name, "recipe_spec": the recipe\'s content}'


@job_command(SETTINGS)
@checkpoint_option
@tokens_option
@weights_option
def main(job: ScriptJob, checkpoint: Path, tokens: Path, weights: Path | None, output: Path) -> None:
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
        recipe = recipe_from(job.settings["recipe_spec"], job.settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        coded = weights_of(weights, model, recipe, job.settings["recipe"])
        attrs = calibrate(model, data.samples, recipe, job.progress, coded)
        facts = {"model": job.settings["model"], "recipe": job.settings["recipe"], "calibration": data.facts}
        save_quant_attrs(output, attrs, checkpoint=job.inputs["model.safetensors"], **facts)
        job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
