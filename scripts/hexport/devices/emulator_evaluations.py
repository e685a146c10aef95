"""This module evaluates a program on the emulator of this host."""

from hexport.config.devices import Device
from hexport.devices.emulator_process import measure
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.measured import Measured
from hexport.progress import Progress


def evaluate_on_emulator(device: Device, job: EvaluationJob, progress: Progress) -> Measured:
    """Score the tasks of a job. Raises HexportError for a program that cannot do it, and for one that
    crashes or hangs.
    """
    return measure(device, job.program, progress, _evaluate, job)


def _evaluate(progress: Progress, job: EvaluationJob) -> dict:
    from hexport.decoder.last_states import prune
    from hexport.devices.emulator import check_htp, check_vocabulary
    from hexport.devices.runners.remote import graph_sizes
    from hexport.evaluation.device import evaluate_reader, load_reader
    from hexport.programs.inspection import inspect_program
    from hexport.runtime.program import METHODS, graph_name
    from hexport.tokenizers.tokenizer import load_tokenizer

    facts = inspect_program(job.program)
    check_htp(facts, job.settings["target"])
    graph = graph_sizes(facts, METHODS[graph_name(facts.methods, job.settings["graph"])])
    loaded, tasks = load_tokenizer(job.tokenizer.parent), job.load_tasks(progress)
    check_vocabulary(job.program, graph, loaded)
    # The layers are gone when the program is loaded, which takes memory too.
    references = job.references(graph.context_len, tasks, loaded, progress)
    with progress.stage("load"):
        reader = load_reader(job.program, job.settings["graph"])
    found = evaluate_reader(reader, tasks, job.settings["limit"], loaded, references, progress)
    prune(job.states)
    return found
