"""Write a shard: consecutive parts of a decoder, all graphs of a mode, compiled to one context binary of the HTP."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import atomic_path, verified, write_manifest
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"target", "ar_lengths", "max_seq_len", "num_sharding", "recipe", "recipe_spec", "versions"}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--shard", type=click.IntRange(min=1), required=True, help="which of num_sharding, from 1")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--quant-attrs", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), help="…/weights.safetensors, if the recipe has them")
@click.option(
    "--templates", type=click.Path(path_type=Path), required=True, multiple=True, help="…/ar<N>.json, of each AR length"
)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict,
    shard: int,
    checkpoint: Path,
    quant_attrs: Path,
    weights: Path | None,
    templates: tuple[Path, ...],
    output: Path,
    log: Path | None,
) -> None:
    progress = Progress(log)
    files = {"model.safetensors": checkpoint, "config.json": checkpoint.with_name("config.json")}
    files |= {"quant_attrs.json": quant_attrs, "weights.safetensors": weights}
    inputs = verified(files | {file.name: file for file in templates})
    with made_once([output], __file__, inputs, settings, progress) as there, progress.library_output_in_log():
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

        build_id, recipe = qnn_build_id(), recipe_from(settings["recipe_spec"], settings["recipe"])
        model = Checkpoint(checkpoint.parent, recipe.basis)
        plan, attrs = plan_of(settings, model.config, recipe), quant_attrs_of(quant_attrs, weights, model, recipe)
        by_ar_len = templates_by_ar_len(templates)
        with atomic_path(output) as part:
            compile_shard(plan, shard - 1, model, attrs, by_ar_len, part, progress)
        write_manifest(
            output,
            script=__file__,
            inputs=inputs,
            params=settings,
            stages=progress.stages,
            machine=machine(),
            versions={"qnn": build_id},
            soc=plan.target.soc,
            htp_arch=plan.target.htp_arch,
        )


if __name__ == "__main__":
    main()
