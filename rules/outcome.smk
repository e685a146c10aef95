from datetime import datetime

from hexport.build import outcome

failures = {}  # jobs, by their numbers; a group has several
built_programs = set()
# What the last lines name where it was asked for, by the rule that makes it.
TO_SEE = {
    "quant attrs": ("calibrate", "artifact"),
    "report": ("write_report", "artifact"),
    "figures": ("write_summary", "artifact"),
    "answers": ("run_program", "texts"),
    "answers of phones": ("run_on_phone", "texts"),
    "bundle": ("write_bundle", "artifact"),
}
corrected_finish = DAG.finish  # rules/staleness.smk


async def finish_and_say(dag, job, update_checkpoint_dependencies=True):
    """Say that a program is finished, and forget that an attempt before it failed."""
    ready = await corrected_finish(dag, job, update_checkpoint_dependencies)
    jobs = set(job) if job.is_group() else {job}
    failures.pop(frozenset(map(dag.jobid, jobs)), None)
    for each in jobs if dag.workflow.is_main_process and not dag.workflow.dryrun else ():
        line = view_handler and view_handler.end(each)
        if each.rule.name.endswith("assemble_program"):
            built_programs.add(each)
            if not SHARED_FILES:
                await each.output.manifest.retrieve_from_storage()
            program, size = each.output.artifact, await each.output.artifact.size()
            made_of = [program, *each.input.templates, *each.input.shards]
            line = outcome.program_line(artifact_named(program), size, made_of)
        if line:
            print(line, file=sys.stderr)
    return ready


def artifact_named(file):
    path = str(file)
    inside = path.startswith(f"{build.copies}/")  # not what another workflow makes, or what is kept here
    return f"{build.artifacts}{path.removeprefix(build.copies)}" if inside else path


def note_failed(record):
    """Note the jobs that failed, as Snakemake's messages tell of them; as a filter, this lets all messages pass."""
    event = getattr(record, "event", None)
    if event is LogEvent.GROUP_ERROR:  # what follows tells of each of its jobs
        ids = frozenset(job["jobid"] for job in record.job_error_info)
    elif event is LogEvent.JOB_ERROR and not any(record.jobid in noted for noted in failures):
        ids = frozenset({record.jobid})
    else:
        return True
    failures[ids] = [job for job in workflow.dag.jobs if workflow.dag.jobid(job) in ids]
    return True


def failure_of(job):
    log = next(iter(job.log), None)
    if log and not SHARED_FILES and workflow.async_run(log.exists_in_storage()):
        workflow.async_run(log.retrieve_from_storage())
    return outcome.Failure(job.rule.name, artifact_named(job.output[0]), log)


DAG.finish = finish_and_say
logger.addFilter(note_failed)


def jobs_of(*rules):
    """Return the jobs of these rules in this build that are done, or were before it."""
    waiting = set(workflow.dag.needrun_jobs())
    return [job for job in workflow.dag.jobs if job.rule.name.endswith(rules) and job not in waiting]


def quantised_as(job):
    return job.wildcards.model, job.wildcards.recipe, job.wildcards.context


def results():
    """Yield the programs that this build made or evaluated, each with its evaluations."""
    evaluated, new = jobs_of("evaluate_device", "evaluate_phone"), set(workflow.dag.finished_jobs)
    made = {job.output.artifact: quantised_as(job) for job in jobs_of("assemble_program") if job in built_programs}
    made |= {job.input.program: quantised_as(job) for job in evaluated if job in new}
    quantised = {quantised_as(job): {"quantised": job.output.artifact} for job in jobs_of("evaluate_qdq")}
    gated = {job.input.figures for job in jobs_of("check_gates", "check_ready_gates")}
    for program, version in sorted(made.items()):
        files = quantised.get(version, {})
        on_device = {job.wildcards.device: job.output.artifact for job in evaluated if job.input.program == program}
        passed = not gated.isdisjoint([*files.values(), *on_device.values()])
        found = {phase: Path(file) for phase, file in (on_device or files).items()}
        yield outcome.Result(artifact_named(program), workflow.async_run(program.size()), found, passed)


def print_where_next():
    asked = workflow.dag.derived_targetfiles
    made = {
        what: [artifact_named(job.output[name]) for job in jobs_of(rule) if not asked.isdisjoint(job.output)]
        for what, (rule, name) in TO_SEE.items()
    }
    outputs = {file for job in workflow.dag.jobs for file in job.output}
    targets = {
        "export": matrix.programs(build),
        "run": matrix.runs(build),
        "evaluate": evaluations.evaluations(build),
        "report": evaluations.reports(build),
        "bundle": bundles.bundles(build),
    }
    still_open = [target for target, files in targets.items() if not outputs.issuperset(files)]
    for line in outcome.where_next(made, still_open):
        print(line, file=sys.stderr)


def print_summary():
    if view_handler:
        view_handler.close()
    programs = [job for job in workflow.dag.jobs if job.rule.name.endswith("assemble_program")]
    waiting = set(workflow.dag.needrun_jobs()) - built_programs
    missing = [artifact_named(job.output.artifact) for job in programs if job in waiting]
    kept = len(programs) - len(built_programs) - len(missing)
    failed = [outcome.that_failed([failure_of(job) for job in jobs]) for jobs in failures.values()]
    seconds = (datetime.now() - workflow.start_time).total_seconds()
    lines = outcome.result_lines(results())
    for line in lines + outcome.summary(len(built_programs), kept, missing, failed, seconds):
        print(line, file=sys.stderr)


onsuccess:
    print_summary()
    print_where_next()


onerror:
    print_summary()
