"""Write result.json and outputs.txt: run a program on a device, on the prompts of the config."""

import json
from importlib import metadata
from pathlib import Path

import click

from hexport.config.settings import check_emulator
from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import write_json, write_manifest, write_text

SETTINGS = (
    'JSON: {"model", "recipe", "target", "mode", "prompts", "system_prompt", "temperature", "seq_len"}, '
    'and in mode lookahead {"ngram", "window", "gcap"}'
)


@click.command(help=__doc__)
@click.option("--settings", type=json.loads, required=True, help=SETTINGS)
@click.option("--devices", type=click.Path(path_type=Path), required=True, help="devices.yaml")
@click.option("--device", required=True, help="a name in it")
@click.option("--program", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/result.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict, devices: Path, device: str, program: Path, tokenizer: Path, output: Path, log: Path | None
) -> None:
    check_emulator(str(devices), device)
    progress = Progress(log)
    with progress.library_output_in_log():
        from hexport.qnn_sdk import qnn_build_id

        build_id = qnn_build_id()
        from hexport.devices.emulator import Run, answer_prompts, check_htp, result_facts
        from hexport.tokenizers.tokenizer import load_tokenizer

        check_htp(program, settings["target"])
        answers = answer_prompts(
            program, load_tokenizer(tokenizer.parent), settings["prompts"], Run.of(settings), progress
        )
        turns = [answer.turn for answer in answers]
        for turn in turns:
            progress.say(f"{turn.prompt!r} -> {turn.text!r}")
        write_text(output.with_name("outputs.txt"), "".join(f"{turn.prompt}\n{turn.text}\n\n" for turn in turns))
        facts = {key: settings[key] for key in ("model", "recipe", "target", "mode")}
        write_json(output, {**facts, "device": device, **result_facts(answers)})
        write_manifest(
            output,
            inputs={
                program.name: program,
                "tokenizer.json": tokenizer,
                "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json"),
            },
            params=settings,
            stages=progress.stages,
            versions={**{name: metadata.version(name) for name in ("executorch", "torch")}, "qnn": build_id},
        )


if __name__ == "__main__":
    main()
