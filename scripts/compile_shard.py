"""Write a shard: consecutive parts of a decoder, all graphs of a mode, compiled to one context binary of the HTP."""

from pathlib import Path

import click

from hexport.provenance import atomic_path
from hexport.script_command import job_command, quantised_model_options, templates_option
from hexport.script_job import ScriptJob, files_of_model

SETTINGS = 'JSON: {"target", "ar_lengths", "max_seq_len", "num_sharding", "recipe", "recipe_spec", "versions"}'


@job_command(SETTINGS)
@click.option("--shard", type=click.IntRange(min=1), required=True, help="which of num_sharding, from 1")
@quantised_model_options
@templates_option
def main(
    job: ScriptJob,
    shard: int,
    checkpoint: Path,
    quant_attrs: Path,
    weights: Path | None,
    templates: tuple[Path, ...],
    output: Path,
) -> None:
    job.reads(files_of_model(checkpoint) | {"quant_attrs.json": quant_attrs, "weights.safetensors": weights})
    job.reads({file.name: file for file in templates})
    with job.made_once(output) as there:
        if there:
            return
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.lowering.lower import compile_shard
        from hexport.lowering.plan import plan_of
        from hexport.lowering.template_file import templates_by_ar_len
        from hexport.qnn_sdk import qnn_build_id
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe_checks import recipe_from

        build_id, recipe = qnn_build_id(), recipe_from(job.settings["recipe_spec"], job.settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        plan, attrs = plan_of(job.settings, model.config, recipe), quant_attrs_of(quant_attrs, weights, model, recipe)
        by_ar_len = templates_by_ar_len(templates)
        with atomic_path(output) as part:
            compile_shard(plan, shard - 1, model, attrs, by_ar_len, part, job.progress)
        target = {"soc": plan.target.soc, "htp_arch": plan.target.htp_arch}
        job.write_manifest(output, machine=machine(), versions={"qnn": build_id}, **target)


if __name__ == "__main__":
    main()
