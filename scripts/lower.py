"""Write a .pte: lower a model to a program for one target, by stamping layer templates."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import atomic_path, verified, write_manifest
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"mode", "target", "soc", "emulator", "max_seq_len", "num_sharding", "recipe_spec", "versions"}, for hybrid '
    'also "prefill_ar_len", for lookahead also "prefill_ar_len", "ngram", "window", "gcap"'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--quant-attrs", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, checkpoint: Path, quant_attrs: Path, tokenizer: Path, output: Path, log: Path | None) -> None:
    progress = Progress(log)
    inputs = verified(
        {
            "model.safetensors": checkpoint,
            "config.json": checkpoint.with_name("config.json"),
            "quant_attrs.json": quant_attrs,
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json"),
        }
    )
    with progress.library_output_in_log():
        from hexport.qnn_sdk import qnn_build_id

        build_id = qnn_build_id()
        from hexport.decoder.device import machine
        from hexport.decoder.weights import Checkpoint
        from hexport.lowering.constant_methods import SpecialTokens
        from hexport.lowering.lower import ar_lengths_of, lower
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe import recipe_from
        from hexport.targets.target import Target
        from hexport.tokenizers.backend import special_ids

        target = Target(settings["soc"], settings["emulator"])
        recipe = recipe_from(settings["recipe_spec"], quant_attrs.parent.name)
        special = SpecialTokens.of(special_ids(tokenizer.parent), tokenizer.parent)
        model, lengths = Checkpoint(checkpoint.parent, recipe.r1), ar_lengths_of(settings)
        attrs = quant_attrs_of(quant_attrs, model, recipe)
        context_len, n_shards = settings["max_seq_len"], settings["num_sharding"]
        lowered = lower(model, attrs, recipe, target, lengths, context_len, n_shards, special, progress)
        with atomic_path(output) as part:
            part.write_bytes(lowered.pte)
        write_manifest(
            output,
            script=__file__,
            inputs=inputs,
            params=settings,
            stages=progress.stages,
            machine=machine(),
            versions={"qnn": build_id},
            soc=target.soc,
            htp_arch=target.htp_arch,
            context_length=context_len,
            ar_lengths=lowered.ar_lengths,
            kv_bits=recipe.kv_bits,
            logits=attrs.logits.as_json(),
            content_sha256=lowered.content_sha256,
            graphs=lowered.graphs,
        )


if __name__ == "__main__":
    main()
