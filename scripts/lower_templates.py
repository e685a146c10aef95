"""Write the layer templates of one AR length, as JSON: QNN ops without weights."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import atomic_path
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"arch", "ar_len", "max_seq_len", "recipe", "recipe_spec", "versions"}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--config", type=click.Path(path_type=Path), required=True, help="…/checkpoint/config.json")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, config: Path, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
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

        build_id, recipe = qnn_build_id(), recipe_from(settings["recipe_spec"], settings["recipe"])
        target, lengths = target_of_arch(settings["arch"]), (settings["ar_len"], settings["max_seq_len"])
        templates = lower_templates(recipe.basis.of(load_config(config)), recipe, target, *lengths, job.progress)
        with atomic_path(output) as part:
            write_templates(part, templates)
        facts = {"versions": {"qnn": build_id}, "htp_arch": settings["arch"]}
        job.write_manifest(output, machine=machine(), **facts)


if __name__ == "__main__":
    main()
