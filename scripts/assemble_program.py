"""Write a .pte: wrap the shards of a program, with what a runner asks it for."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import atomic_path, verified, write_manifest
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
    progress = Progress(log)
    inputs = verified(
        {
            "config.json": config,
            "quant_attrs.json": quant_attrs,
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json"),
            **{file.name: file for file in (*templates, *shard)},
        }
    )
    with made_once([output], __file__, inputs, settings, progress) as there, progress.library_output_in_log():
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
            lowered = assemble_program(plan, attrs, by_ar_len, list(shard), special, part, progress)
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
            context_length=plan.context_len,
            ar_lengths=plan.ar_lengths,
            kv_bits=recipe.kv_bits,
            logits=attrs.logits.as_json(),
            content_sha256=lowered.content_sha256,
            graphs=lowered.graphs,
        )


if __name__ == "__main__":
    main()
