"""Write evaluation.json: what a program on a device reaches on the tasks of the config, and how near it is to the
float model and to the fake-quantised one on the same tokens."""

from pathlib import Path

import click

from hexport.config.devices import Device, devices_at, read_devices
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.measured import Measured
from hexport.progress import Progress
from hexport.provenance import write_json
from hexport.script_command import evaluation_options, file_option, job_command, weights_option
from hexport.script_job import ScriptJob, files_of_model, files_of_tokenizer

SETTINGS = (
    'JSON: {"model", "recipe", "recipe_spec", "target", "mode", "graph": "prefill" or "kv", "tasks", "limit", '
    '"num_fewshot"}, for a ready program "max_seq_len", and with task files "trusted": {task: file}'
)


@job_command(SETTINGS)
@file_option("--devices", help="devices.yaml")
@click.option("--device", required=True, help="a name in it, or `phones` for any phone of the SoC")
@file_option("--program")
@file_option("--checkpoint", required=False, help="…/model.safetensors; none to compare with nothing")
@file_option("--quant-attrs", required=False, help="of a built program")
@weights_option
@file_option("--fp", required=False, help="…/evaluation/fp.json, with --checkpoint")
@evaluation_options
def main(
    job: ScriptJob,
    devices: Path,
    device: str,
    program: Path,
    checkpoint: Path | None,
    quant_attrs: Path | None,
    weights: Path | None,
    fp: Path | None,
    tokenizer: Path,
    texts: tuple[str, ...],
    states: Path,
    output: Path,
) -> None:
    found, settings = devices_at(read_devices(str(devices)), device, job.settings["target"]), job.settings
    with job.progress.library_output_in_log():
        from hexport.evaluation.gates import device_warnings, perplexity_ratios
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.result_files import read_evaluation
        from hexport.evaluation.tasks import task_inputs

        local = local_files(texts)
        job.reads({program.name: program} | files_of_tokenizer(tokenizer) | task_inputs(local, settings.get("trusted")))
        if checkpoint:
            compared = files_of_model(checkpoint) | {"fp.json": fp}
            job.reads(compared | {"quant_attrs.json": quant_attrs, "weights.safetensors": weights})
        evaluation = EvaluationJob(program, tokenizer, settings, local, checkpoint, quant_attrs, weights, states)
        measured = _measured(found, evaluation, job.progress)
        facts = {key: settings[key] for key in ("model", "recipe", "target", "mode", "limit", "num_fewshot")}
        facts |= {"phase": "device", "device": measured.device, **measured.facts}
        if checkpoint:
            facts["perplexity_ratio"] = perplexity_ratios(facts["tasks"], read_evaluation(fp)["tasks"])
        for line in device_warnings(facts):
            job.progress.say(line)
        write_json(output, facts)
        known = {"device_kind": found[0].kind, "versions": measured.versions, **measured.manifest}
        job.write_manifest(output, **known)


def _measured(devices: list[Device], evaluation: EvaluationJob, progress: Progress) -> Measured:
    if devices[0].kind == "emulator":
        from hexport.devices.emulator_evaluations import evaluate_on_emulator

        return evaluate_on_emulator(devices[0], evaluation, progress)
    from hexport.devices.phone_evaluations import evaluate_on_phones

    return evaluate_on_phones(devices, evaluation, progress)


if __name__ == "__main__":
    main()
