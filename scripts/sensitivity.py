"""Write sensitivity.yaml, the parts of a model that are worth more bits, and sensitivity.json, the gains of all."""

from dataclasses import asdict
from pathlib import Path

from hexport.provenance import write_json, write_text
from hexport.script_command import job_command, quantised_model_options, tokens_option
from hexport.script_job import ScriptJob, files_of_model

SETTINGS = 'JSON: {"model": its name, "recipe": its name, "recipe_spec": the recipe\'s content}'


@job_command(SETTINGS)
@quantised_model_options
@tokens_option
def main(job: ScriptJob, checkpoint: Path, tokens: Path, quant_attrs: Path, weights: Path | None, output: Path) -> None:
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
        recipe = recipe_from(job.settings["recipe_spec"], job.settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        attrs = quant_attrs_of(quant_attrs, weights, model, recipe, job.settings["recipe"])
        found = sensitivity(model, attrs, recipe, samples, job.progress)
        write_text(output, overrides_yaml(found, job.settings["model"], job.settings["recipe"]))
        table = output.with_suffix(".json")
        write_json(table, asdict(found))
        job.write_manifest(output, table, machine=machine())


if __name__ == "__main__":
    main()
