"""Find the overrides that make the best recipe for MODEL in a program of some size, or the smallest one that is good
enough.

It starts from a recipe of the model, mostly one with 4-bit weights, and needs the checkpoint and the calibration data
(`snakemake quantize`). What it writes, a recipe for config.yaml and a curve of size against perplexity, is in the
recipe's folder, in `fit/`, beside all that was measured. docs/mixed_precision.md says how it goes.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hexport.build.artifacts import checkpoint_file, tokens_file
from hexport.config.checks import check_socs
from hexport.config.documents import read_yaml
from hexport.config.settings import model_and_recipe, parse_config
from hexport.errors import HexportError, one_line_errors
from hexport.progress import Progress
from hexport.provenance import verified, write_text
from hexport.script_job import files_of_model

if TYPE_CHECKING:
    from hexport.fitting.fit_model import ModelFit

UNITS = {"MB": 1_000_000, "GB": 1_000_000_000}


class ProgramSize(click.ParamType):
    """A size is written as 130MB or 1.2GB, and read as a number of bytes."""

    name = "size"

    def convert(self, value: object, param, ctx) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", str(value))
        if not found:
            self.fail(f"{value!r} is no size; write it as 130MB or 1.2GB", param, ctx)
        return round(float(found[1]) * UNITS[found[2]])


@click.command(help=__doc__)
@click.argument("name", metavar="MODEL")
@click.option("--size", type=ProgramSize(), help="of the program at most, as show_recipe.py estimates it: 130MB, 1.2GB")
@click.option(
    "--max-perplexity-ratio", "ratio", type=click.FloatRange(1, min_open=True), help="of the float model's, per token"
)
@click.option("--config", "file", type=click.Path(path_type=Path), default="config.yaml", show_default=True)
@click.option("--recipe", "recipe_name", help="of the model's recipes, to start from; default: the first")
@one_line_errors
def main(name: str, size: int | None, ratio: float | None, file: Path, recipe_name: str | None) -> None:
    if (size is None) == (ratio is None):
        raise HexportError("give one of --size and --max-perplexity-ratio")
    config = parse_config(read_yaml(file), str(file))
    model, recipe_name = model_and_recipe(config, str(file), name, recipe_name)
    check_socs(config, str(file))
    inputs = _inputs(config.artifacts, name)
    folder = Path(config.artifacts, name, recipe_name, "fit")
    output = folder / (f"{size / UNITS['MB']:g}MB.yaml" if size else f"ratio-{ratio:g}.yaml")
    progress = Progress(output.with_suffix(".log"))
    with progress.library_output_in_log():
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.fitting.fit_model import fit_model

        found = fit_model(config, name, recipe_name, inputs, size, ratio, folder, progress)
        _write(output, found, name, recipe_name, max(model.context_lens))
        fitted = found.fitted
        progress.say(f"{output}: {fitted.n_bytes / 1e6:.1f} MB, perplexity ratio {fitted.perplexity_ratio:.4f}")


def _inputs(artifacts: str, name: str) -> tuple[Path, Path]:
    """Return the checkpoint and the calibration tokens of a model. Raises HexportError where one is missing or is
    damaged."""
    checkpoint, tokens = (Path(of(artifacts, name)) for of in (checkpoint_file, tokens_file))
    for path in (checkpoint, tokens):
        if not path.is_file():
            raise HexportError(f"{path}: missing; run `snakemake {path}` first")
    verified(files_of_model(checkpoint) | {"tokens.json": tokens})
    return checkpoint, tokens


def _write(output: Path, found: "ModelFit", name: str, recipe_name: str, context_len: int) -> None:
    """Write the recipe, with what to expect of it, and the curve beside it as CSV and SVG."""
    from hexport.fitting.files import curve_csv, curve_svg, recipe_yaml

    fitted = found.fitted
    heading = (
        f"{name}: {fitted.n_bytes / 1e6:.1f} MB, by the estimate of show_recipe.py with max_seq_len {context_len}.",
        f"Perplexity per token is {fitted.perplexity_ratio:.4f} times the float model's, on {found.judged} tokens of "
        "the calibration data that its codes have not seen.",
        "For config.yaml: recipes: {<name>: <what follows>}; see docs/mixed_precision.md.",
    )
    write_text(output, recipe_yaml(fitted, recipe_name, heading))
    write_text(output.with_suffix(".csv"), curve_csv(found.rows))
    write_text(output.with_suffix(".svg"), curve_svg(found.rows, f"{name}, recipes based on {recipe_name}"))


if __name__ == "__main__":
    main()
