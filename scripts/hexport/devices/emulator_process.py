"""Runs and evaluations on the emulator of this host, each in a process of its own: QNN's libraries and executorch's
runtime load what anyone may have written, and can crash or hang on it.
"""

from collections.abc import Callable
from pathlib import Path

from hexport.child import answer
from hexport.config.devices import Device
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.measured import Measured
from hexport.progress import Progress

ADVICE = (
    "the program may be damaged: copy it again, or export it again; if it is only slow, raise timeout of the emulator "
    "in devices.yaml; the log has its last words"
)


def run_program(device: Device, program: Path, tokenizer: Path, settings: dict, progress: Progress) -> Measured:
    """Have the conversation of the settings of scripts/run.py. tokenizer: …/tokenizer.json.

    Raises HexportError for a program that cannot do it, and one that crashes or hangs.
    """
    return _measured(device, program, progress, _run, program, tokenizer, settings)


def evaluate_program(device: Device, job: EvaluationJob, progress: Progress) -> Measured:
    """Score the tasks of a job. Raises HexportError as `run_program` does."""
    return _measured(device, job.program, progress, _evaluate, job)


def _measured(device: Device, program: Path, progress: Progress, work: Callable, *arguments: object) -> Measured:
    what = f"{program}: the emulator"
    facts, build_id = answer(work, *arguments, progress=progress, what=what, advice=ADVICE, timeout=device.timeout)
    return Measured(device.name, facts, versions={"qnn": build_id})


def _run(progress: Progress, program: Path, tokenizer: Path, settings: dict) -> tuple[dict, str]:
    from hexport.qnn_sdk import qnn_build_id

    build_id = qnn_build_id()
    from hexport.devices.answers import answer_prompts, result_facts
    from hexport.devices.emulator import Run, check_htp, load_generator
    from hexport.lowering.inspection import inspect_program
    from hexport.tokenizers.tokenizer import load_tokenizer

    check_htp(inspect_program(program), settings["target"])
    loaded, run = load_tokenizer(tokenizer.parent), Run.of(settings)
    generator = load_generator(program, run, progress)
    return result_facts(answer_prompts(program, generator, loaded, settings["prompts"], run, progress), run), build_id


def _evaluate(progress: Progress, job: EvaluationJob) -> tuple[dict, str]:
    from hexport.qnn_sdk import qnn_build_id

    build_id = qnn_build_id()
    from hexport.devices.emulator import check_htp, check_vocabulary
    from hexport.evaluation.device import evaluate_reader, load_reader
    from hexport.lowering.inspection import inspect_program
    from hexport.tokenizers.tokenizer import load_tokenizer

    check_htp(inspect_program(job.program), job.settings["target"])
    loaded, tasks, references = load_tokenizer(job.tokenizer.parent), job.load_tasks(progress), job.references()
    with progress.stage("load"):
        reader = load_reader(job.program, job.settings["graph"])
    check_vocabulary(job.program, reader.graph, loaded)
    return evaluate_reader(reader, tasks, job.settings["limit"], loaded, references, progress), build_id
