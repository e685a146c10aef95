"""Write tokens.json: the token ids that a model is calibrated on, from prompts, a text, chats, lm-eval's tasks or the
set that comes with hexport."""

import hashlib
import json
from pathlib import Path

import click

from hexport.evaluation.local_text import local_files, read_text
from hexport.evaluation.task_texts import task_samples
from hexport.evaluation.tasks import load_tasks, task_inputs
from hexport.provenance import write_json
from hexport.quantization.calibration_data import (
    FEW_TOKENS,
    SAMPLE_TOKENS,
    chat_samples,
    prompt_samples,
    set_samples,
    text_samples,
)
from hexport.quantization.calibration_set import set_digest
from hexport.script_command import file_option, job_command, tokenizer_option
from hexport.script_job import ScriptJob, files_of_tokenizer
from hexport.tokenizers.tokenizer import Tokenizer, load_tokenizer

SETTINGS = (
    'JSON: {"prompts": […], "system_prompt": ""}, beside which "calibration_set": its digest adds hexport\'s own, '
    '{"text": name of the file}, {"samples": name of the file}, or '
    '{"tasks": [names], "limit": documents per task or null, "num_fewshot": number or null, "texts": {task: file}}, '
    'and with task files "trusted": {task: file}'
)


@job_command(SETTINGS)
@tokenizer_option
@file_option("--text", required=False, help="the text file, where the settings name one")
@file_option("--samples", required=False, help="the chats, where the settings name a file of them")
@click.option("--local", multiple=True, metavar="NAME=PATH", help="the file of a task that is a local text")
def main(
    job: ScriptJob, tokenizer: Path, text: Path | None, samples: Path | None, local: tuple[str, ...], output: Path
) -> None:
    settings, texts = job.settings, local_files(local)
    job.reads(files_of_tokenizer(tokenizer) | task_inputs(texts, settings.get("trusted")))
    job.reads({file.name: file for file in filter(None, (text, samples))})
    with job.progress.library_output_in_log():
        with job.progress.stage("calibration data"):
            ids, source = _data(job, load_tokenizer(tokenizer.parent), text, samples, texts)
            total = sum(map(len, ids))
            write_json(output, {"source": source, "samples": ids, "tokens": total})
        if "calibration_set" in settings:
            job.progress.say(
                f"note: no calibration data are named, so hexport's calibration set is used, {total} tokens with the "
                "model's prompts; texts like those that it will read are better (docs/calibration.md)"
            )
        if total < FEW_TOKENS:
            job.progress.say(
                f"warning: {total} tokens of calibration data are few, and other texts may leave their ranges; "
                f"give {FEW_TOKENS} or more, such as calibration: {{text: file.txt}} (docs/calibration.md)"
            )
        job.write_manifest(output)


def _data(
    job: ScriptJob, tokenizer: Tokenizer, text: Path | None, samples: Path | None, texts: dict[str, Path]
) -> tuple[list[list[int]], dict]:
    """Return the samples, and exactly what they are from."""
    settings, inputs = job.settings, job.inputs
    if text:
        return text_samples(tokenizer, read_text(text)), _from_file("text", settings, inputs[text.name])
    if samples:
        return chat_samples(tokenizer, samples), _from_file("samples", settings, inputs[samples.name])
    if "tasks" in settings:
        limits = {key: settings.get(key) for key in ("limit", "num_fewshot")}
        tasks = load_tasks(settings["tasks"], texts, limits["num_fewshot"], settings.get("trusted"))
        ids, origin = task_samples(tokenizer, tasks, limits["limit"], SAMPLE_TOKENS)
        files = {settings["texts"][name]: inputs[f"tasks.{name}"] for name in texts}
        return ids, {"kind": "tasks", "tasks": origin, "files": files, **limits}
    prompts, system_prompt = settings["prompts"], settings.get("system_prompt", "")
    with_set = "calibration_set" in settings
    ids = prompt_samples(tokenizer, prompts, system_prompt) if prompts or not with_set else []
    said = json.dumps([system_prompt, *prompts], ensure_ascii=False)
    origin = {"kind": "prompts", "prompts": len(prompts), "sha256": hashlib.sha256(said.encode()).hexdigest()}
    if not with_set:
        return ids, origin
    return ids + set_samples(tokenizer), origin | {"kind": "set", "set_sha256": set_digest()}


def _from_file(kind: str, settings: dict, sha256: str) -> dict:
    return {"kind": kind, "files": {settings[kind]: sha256}}


if __name__ == "__main__":
    main()
