"""Write tokens.json: the token ids that a model is calibrated on, from prompts or from a text file."""

import json
from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import write_json, write_manifest
from hexport.quantization.calibration_data import prompt_samples, text_samples
from hexport.tokenizers.tokenizer import load_tokenizer

SETTINGS = 'JSON: {"prompts": […], "system_prompt": ""} or {"text": name of the file}'


@click.command(help=__doc__)
@click.option("--settings", type=json.loads, required=True, help=SETTINGS)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer.json")
@click.option("--text", type=click.Path(path_type=Path), help="the text file, where the settings name one")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, tokenizer: Path, text: Path | None, output: Path, log: Path | None) -> None:
    progress = Progress(log)
    with progress.stage("calibration data"):
        loaded = load_tokenizer(tokenizer.parent)
        inputs = {tokenizer.name: tokenizer, "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json")}
        if text:
            source: dict = {"text": settings["text"]}
            samples = text_samples(loaded, text)
            inputs[text.name] = text
        else:
            source = {"prompts": len(settings["prompts"])}
            samples = prompt_samples(loaded, settings["prompts"], settings.get("system_prompt", ""))
        write_json(output, {"source": source, "samples": samples, "tokens": sum(map(len, samples))})
    write_manifest(output, inputs=inputs, params=settings, stages=progress.stages)


if __name__ == "__main__":
    main()
