"""Write the layer templates of one AR length, as JSON: QNN ops without weights."""

from pathlib import Path

from hexport.provenance import atomic_path
from hexport.script_command import config_option, job_command
from hexport.script_job import ScriptJob

SETTINGS = 'JSON: {"arch", "ar_len", "max_seq_len", "recipe", "recipe_spec", "versions"}'


@job_command(SETTINGS)
@config_option
def main(job: ScriptJob, config: Path, output: Path) -> None:
    job.reads({"config.json": config})
    with job.made_once(output) as there:
        if there:
            return
        from hexport.decoder.config import load_config
        from hexport.decoder.device import machine
        from hexport.lowering.template_file import write_templates
        from hexport.lowering.templates import lower_templates
        from hexport.qnn_sdk import qnn_build_id
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.targets.target import target_of_arch

        build_id, recipe = qnn_build_id(), recipe_from(job.settings["recipe_spec"], job.settings["recipe"])
        target, lengths = target_of_arch(job.settings["arch"]), (job.settings["ar_len"], job.settings["max_seq_len"])
        templates = lower_templates(recipe.basis.of(load_config(config)), recipe, target, *lengths, job.progress)
        with atomic_path(output) as part:
            write_templates(part, templates)
        facts = {"versions": {"qnn": build_id}, "htp_arch": job.settings["arch"]}
        job.write_manifest(output, machine=machine(), **facts)


if __name__ == "__main__":
    main()
