"""Compare the HTP emulator with the fake-quantised decoder of MODEL, layer by layer and point by point.

The model's quant attrs have to be there (`snakemake quantize`); a program need not be. The text is the beginning of the
calibration data. What stands in the tables is told in docs/evaluation.md.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hexport.build.artifacts import checkpoint_file, quant_attrs_file, tokens_file, weights_file
from hexport.config.documents import read_yaml
from hexport.config.settings import Config, model_and_recipe, parse_config
from hexport.errors import HexportError, one_line_errors
from hexport.progress import Progress
from hexport.provenance import verified, write_json
from hexport.quantization.recipe_checks import recipe_from
from hexport.script_job import files_of_model
from hexport.tables import table_console

if TYPE_CHECKING:
    from hexport.evaluation.layer_comparison import LayerComparison


@click.command(help=__doc__)
@click.argument("name", metavar="MODEL")
@click.option("--config", "file", type=click.Path(path_type=Path), default="config.yaml", show_default=True)
@click.option("--recipe", "recipe_name", help="of the model's recipes; default: the first")
@click.option("--tokens", "n_tokens", type=click.IntRange(2, 512), default=128, show_default=True, help="how many")
@click.option(
    "--points",
    "shown",
    metavar="PART",
    help="show the points of layer 0, 1, …, of the prologue or the epilogue; default: of the first departure",
)
@click.option("--json", "output", type=click.Path(path_type=Path), help="write all figures to this file, too")
@click.option("--log", type=click.Path(path_type=Path), default="compare_layers.log", show_default=True)
@one_line_errors
def main(
    name: str, file: Path, recipe_name: str | None, n_tokens: int, shown: str | None, output: Path | None, log: Path
) -> None:
    config = parse_config(read_yaml(file), str(file))
    _, recipe_name = model_and_recipe(config, str(file), name, recipe_name)
    quant_attrs = Path(quant_attrs_file(config.artifacts, name, recipe_name))
    if not quant_attrs.is_file():
        raise HexportError(f"{quant_attrs}: missing; run `snakemake {quant_attrs}` first")
    stdout = os.fdopen(os.dup(1), "w")  # that of the process becomes the log
    console = table_console(stdout)
    progress = Progress(log)
    with progress.library_output_in_log():
        found = _compared(config, name, recipe_name, quant_attrs, n_tokens, progress)
    from hexport.evaluation.layer_tables import first_departure, part_table, point_table

    if output:
        write_json(output, found.as_json())
    console.print(part_table(found), "")
    console.print(first_departure(found), "")
    part = f"layers.{shown}" if shown and shown.isdigit() else shown
    console.print(point_table(found, part))


def _compared(
    config: Config, name: str, recipe_name: str, quant_attrs: Path, n_tokens: int, progress: Progress
) -> "LayerComparison":
    """Compare a model on the first tokens of its calibration data."""
    checkpoint, tokens = (Path(of(config.artifacts, name)) for of in (checkpoint_file, tokens_file))
    weights = Path(weights_file(config.artifacts, name, recipe_name))
    found = weights if weights.is_file() else None
    quantised = {"quant_attrs.json": quant_attrs, "weights.safetensors": found}
    verified(files_of_model(checkpoint) | {"tokens.json": tokens} | quantised)
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
    from hexport.decoder.weights import Checkpoint
    from hexport.evaluation.layer_comparison import compare_model
    from hexport.quantization.quant_attrs_checks import quant_attrs_of
    from hexport.quantization.tokens_file import read_tokens

    recipe = recipe_from(config.recipes[recipe_name], recipe_name)
    model = Checkpoint(checkpoint.parent, recipe.basis)
    attrs = quant_attrs_of(quant_attrs, found, model, recipe, recipe_name)
    return compare_model(model, recipe, attrs, config.socs[0], read_tokens(tokens).samples[0][:n_tokens], progress)


if __name__ == "__main__":
    main()
