"""Write a .pte: wrap the shards of a program, with what a runner asks it for."""

from dataclasses import asdict
from pathlib import Path

from hexport.provenance import atomic_path
from hexport.script_command import (
    config_option,
    file_option,
    job_command,
    quant_attrs_option,
    templates_option,
    tokenizer_option,
)
from hexport.script_job import ScriptJob, files_of_tokenizer

SETTINGS = (
    'JSON: {"target", "ar_lengths", "max_seq_len", "num_sharding", "recipe", "recipe_spec", "versions"}, and what a '
    'manifest should tell: "mode", "prefill_ar_len", "ngram", "window", "gcap"'
)


@job_command(SETTINGS)
@config_option
@quant_attrs_option
@tokenizer_option
@templates_option
@file_option("--shard", multiple=True, help="each, in order")
def main(
    job: ScriptJob,
    config: Path,
    quant_attrs: Path,
    tokenizer: Path,
    templates: tuple[Path, ...],
    shard: tuple[Path, ...],
    output: Path,
) -> None:
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

        build_id, recipe = qnn_build_id(), recipe_from(job.settings["recipe_spec"], job.settings["recipe"])
        special = SpecialTokens.of(special_ids(tokenizer.parent), tokenizer.parent)
        plan = plan_of(job.settings, recipe.basis.of(load_config(config)), recipe)
        attrs, by_ar_len = load_quant_attrs(quant_attrs), templates_by_ar_len(templates)
        with atomic_path(output) as part:
            lowered = assemble_program(plan, attrs, by_ar_len, list(shard), special, part, job.progress)
        facts = plan.facts | {"logits": attrs.logits.as_json(), **asdict(lowered)}
        job.write_manifest(output, machine=machine(), versions={"qnn": build_id}, **facts)


if __name__ == "__main__":
    main()
