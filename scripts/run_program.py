"""Write result.json and outputs.txt: run a program on a device, on the prompts of the config."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path

import click

from hexport.config.devices import devices_at, read_devices
from hexport.provenance import write_json, write_text
from hexport.script_command import file_option, job_command, tokenizer_option
from hexport.script_job import ScriptJob, files_of_tokenizer

SETTINGS = (
    'JSON: {"model", "recipe", "target", "mode", "prompts": […] or [[…], …], "system_prompt", "temperature", '
    '"seq_len", "repeats", "warmup"}, and in mode lookahead {"ngram", "window", "gcap"}'
)


@job_command(SETTINGS)
@file_option("--devices", help="devices.yaml")
@click.option("--device", required=True, help="a name in it, or `phones` for any phone of the SoC")
@file_option("--program")
@tokenizer_option
def main(job: ScriptJob, devices: Path, device: str, program: Path, tokenizer: Path, output: Path) -> None:
    found = devices_at(read_devices(str(devices)), device, job.settings["target"])
    job.reads({program.name: program} | files_of_tokenizer(tokenizer))
    with job.progress.library_output_in_log():
        if found[0].kind == "emulator":
            from hexport.devices.emulator_runs import run_on_emulator

            measured = run_on_emulator(found[0], program, tokenizer, job.settings, job.progress)
        else:
            from hexport.devices.phone_runs import run_on_phones

            measured = run_on_phones(found, program, tokenizer, job.settings, job.progress)
        answers = measured.facts["prompts"]
        for said in answers:
            job.progress.say(f"{said['prompt']!r} -> {said['text']!r}")
        facts = {key: job.settings[key] for key in ("model", "recipe", "target", "mode")}
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
