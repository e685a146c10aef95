"""Find the overrides that make the best recipe for MODEL in a program of some size, or the smallest one that is good
enough.

It starts from a recipe of the model, mostly one with 4-bit weights, and needs the checkpoint and the calibration data
(`snakemake quantize`). What it writes, a recipe for config.yaml and a curve of size against perplexity, is in the
recipe's folder, in `fit/`, beside all that was measured. docs/mixed_precision.md says how it goes.
"""

import re
from dataclasses import replace
from pathlib import Path

import click

from hexport.build.artifacts import checkpoint_file, tokens_file
from hexport.build.program_size import most_copies
from hexport.config.checks import check_socs
from hexport.config.documents import read_yaml
from hexport.config.settings import model_and_recipe, parse_config
from hexport.errors import HexportError, one_line_errors
from hexport.progress import Progress
from hexport.provenance import verified, write_text
from hexport.targets.socs import HTP_ARCH, MIN_ARCH_BLOCKS

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
    checkpoint, tokens = (Path(of(config.artifacts, name)) for of in (checkpoint_file, tokens_file))
    for path in (checkpoint, tokens):
        if not path.is_file():
            raise HexportError(f"{path}: missing; run `snakemake {path}` first")
    verified({"model.safetensors": checkpoint, "config.json": checkpoint.with_name("config.json"), "tokens": tokens})
    folder = Path(config.artifacts, name, recipe_name, "fit")
    output = folder / (f"{size / UNITS['MB']:g}MB.yaml" if size else f"ratio-{ratio:g}.yaml")
    progress = Progress(output.with_suffix(".log"))
    with progress.library_output_in_log():
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.decoder.weights import Checkpoint
        from hexport.fitting.files import curve_csv, curve_svg, recipe_yaml
        from hexport.fitting.fit import Fitter
        from hexport.fitting.measured import Laboratory, split
        from hexport.fitting.model_curve import model_curve
        from hexport.quantization.recipe_checks import recipe_from
        from hexport.quantization.tokens_file import read_tokens

        spec, context_len = config.recipes[recipe_name], max(model.context_lens)
        recipe, samples = recipe_from(spec, recipe_name), split(read_tokens(tokens).samples)
        canonical = Checkpoint(checkpoint.parent, replace(recipe.basis, row_scales=False))
        curve = model_curve(
            canonical,
            recipe,
            *samples,
            folder / "damage",
            progress,
            context_len=context_len,
            copies=most_copies(config, model),
            in_blocks=all(HTP_ARCH[soc] >= MIN_ARCH_BLOCKS for soc in config.socs),
        )
        laboratory = Laboratory(name, recipe_name, recipe, checkpoint.parent, *samples, folder, progress)
        fitter = Fitter(spec, recipe_name, canonical.config.n_layers, curve, laboratory)
        fitted = fitter.to_size(size, progress) if size else fitter.to_ratio(ratio, progress)
        rows = list(fitter.table())
        found, judged = f"{fitted.n_bytes / UNITS['MB']:.1f} MB", sum(map(len, samples[1]))
        heading = (
            f"{name}: {found}, by the estimate of show_recipe.py with max_seq_len {context_len}.",
            f"Perplexity per token is {fitted.perplexity_ratio:.4f} times the float model's, on {judged} tokens of the "
            "calibration data that its codes have not seen.",
            "For config.yaml: recipes: {<name>: <what follows>}; see docs/mixed_precision.md.",
        )
        write_text(output, recipe_yaml(fitted, recipe_name, heading))
        write_text(output.with_suffix(".csv"), curve_csv(rows))
        write_text(output.with_suffix(".svg"), curve_svg(rows, f"{name}, recipes based on {recipe_name}"))
        progress.say(f"{output}: {found}, perplexity ratio {fitted.perplexity_ratio:.4f}")


if __name__ == "__main__":
    main()
