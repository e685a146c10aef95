"""Write result.json and outputs.txt: run a program on a device, on the prompts of the config."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path

import click

from hexport.config.devices import devices_at, read_devices
from hexport.errors import one_line_errors
from hexport.provenance import write_json, write_text
from hexport.script_job import ScriptJob, files_of_tokenizer
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"model", "recipe", "target", "mode", "prompts": […] or [[…], …], "system_prompt", "temperature", '
    '"seq_len", "repeats", "warmup"}, and in mode lookahead {"ngram", "window", "gcap"}'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--devices", type=click.Path(path_type=Path), required=True, help="devices.yaml")
@click.option("--device", required=True, help="a name in it, or `phones` for any phone of the SoC")
@click.option("--program", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/result.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict, devices: Path, device: str, program: Path, tokenizer: Path, output: Path, log: Path | None
) -> None:
    found = devices_at(read_devices(str(devices)), device, settings["target"])
    job = ScriptJob(__file__, settings, log)
    job.reads({program.name: program} | files_of_tokenizer(tokenizer))
    with job.progress.library_output_in_log():
        if found[0].kind == "emulator":
            from hexport.devices.emulator_runs import run_on_emulator

            measured = run_on_emulator(found[0], program, tokenizer, settings, job.progress)
        else:
            from hexport.devices.phone_runs import run_on_phones

            measured = run_on_phones(found, program, tokenizer, settings, job.progress)
        answers = measured.facts["prompts"]
        for said in answers:
            job.progress.say(f"{said['prompt']!r} -> {said['text']!r}")
        facts = {key: settings[key] for key in ("model", "recipe", "target", "mode")}
        write_json(output, {**facts, "device": measured.device, **measured.facts})
        write_text(output.with_name("outputs.txt"), _outputs(answers))
        facts = {"device_kind": found[0].kind, "versions": measured.versions, **measured.manifest}
        job.write_manifest(output, **facts)


def _outputs(answers: list[dict]) -> str:
    """Return prompts and answers, under a line for each conversation where there are several."""
    conversations = [list(said) for _, said in groupby(answers, key=itemgetter("conversation"))]
    lines = []
    for number, said in enumerate(conversations, 1):
        lines += [f"== conversation {number} of {len(conversations)}\n"] if len(conversations) > 1 else []
        lines += [f"{each['prompt']}\n{each['text']}\n" for each in said]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
