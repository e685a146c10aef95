"""Write a .pte: wrap the shards of a program, with what a runner asks it for."""

from dataclasses import asdict
from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import atomic_path
from hexport.script_job import ScriptJob, files_of_tokenizer
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"target", "ar_lengths", "max_seq_len", "num_sharding", "recipe", "recipe_spec", "versions"}, and what a '
    'manifest should tell: "mode", "prefill_ar_len", "ngram", "window", "gcap"'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--config", type=click.Path(path_type=Path), required=True, help="…/checkpoint/config.json")
@click.option("--quant-attrs", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option(
    "--templates", type=click.Path(path_type=Path), required=True, multiple=True, help="…/ar<N>.json, of each AR length"
)
@click.option("--shard", type=click.Path(path_type=Path), required=True, multiple=True, help="each, in order")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict,
    config: Path,
    quant_attrs: Path,
    tokenizer: Path,
    templates: tuple[Path, ...],
    shard: tuple[Path, ...],
    output: Path,
    log: Path | None,
) -> None:
    job = ScriptJob(__file__, settings, log)
    job.reads({"config.json": config, "quant_attrs.json": quant_attrs} | files_of_tokenizer(tokenizer))
    job.reads({file.name: file for file in (*templates, *shard)})
    with job.made_once(output) as there:
        if there:
            return
        from hexport.decoder.config import load_config
        from hexport.decoder.device import machine
        from hexport.lowering.constant_methods import SpecialTokens
        from hexport.lowering.lower import assemble_program
        from hexport.lowering.plan import plan_of
        from hexport.lowering.template_file import templates_by_ar_len
        from hexport.qnn_sdk import qnn_build_id
        from hexport.quantization.quant_attrs import load_quant_attrs
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.tokenizers.backend import special_ids

        build_id, recipe = qnn_build_id(), recipe_from(settings["recipe_spec"], settings["recipe"])
        special = SpecialTokens.of(special_ids(tokenizer.parent), tokenizer.parent)
        plan = plan_of(settings, recipe.basis.of(load_config(config)), recipe)
        attrs, by_ar_len = load_quant_attrs(quant_attrs), templates_by_ar_len(templates)
        with atomic_path(output) as part:
            lowered = assemble_program(plan, attrs, by_ar_len, list(shard), special, part, job.progress)
        facts = plan.facts | {"logits": attrs.logits.as_json(), **asdict(lowered)}
        job.write_manifest(output, machine=machine(), versions={"qnn": build_id}, **facts)


if __name__ == "__main__":
    main()
