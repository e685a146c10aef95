from hexport.build import outcome

failures = {}  # jobs, by their numbers; a group has several
built_programs = set()
corrected_finish = DAG.finish  # rules/staleness.smk


async def finish_and_say(dag, job, update_checkpoint_dependencies=True):
    """Say that a program is finished, and forget that an attempt before it failed."""
    ready = await corrected_finish(dag, job, update_checkpoint_dependencies)
    jobs = set(job) if job.is_group() else {job}
    failures.pop(frozenset(map(dag.jobid, jobs)), None)
    for each in jobs:
        if each.rule.name.endswith("assemble_program") and dag.workflow.is_main_process and not dag.workflow.dryrun:
            built_programs.add(each)
            if not SHARED_FILES:
                await each.output.manifest.retrieve_from_storage()
            program, size = each.output.artifact, await each.output.artifact.size()
            made_of = [program, *each.input.templates, *each.input.shards]
            print(outcome.program_line(artifact_named(program), size, made_of), file=sys.stderr)
    return ready


def artifact_named(file):
    path = str(file)
    inside = path.startswith(f"{build.copies}/")  # not what another workflow makes, or what is kept here
    return f"{build.artifacts}{path.removeprefix(build.copies)}" if inside else path


def note_failed(record):
    """A filter of Snakemake's messages, which lets all pass."""
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


def print_summary():
    programs = [job for job in workflow.dag.jobs if job.rule.name.endswith("assemble_program")]
    waiting = set(workflow.dag.needrun_jobs()) - built_programs
    missing = [artifact_named(job.output.artifact) for job in programs if job in waiting]
    kept = len(programs) - len(built_programs) - len(missing)
    failed = [outcome.that_failed([failure_of(job) for job in jobs]) for jobs in failures.values()]
    for line in outcome.summary(len(built_programs), kept, missing, failed):
        print(line, file=sys.stderr)


onsuccess:
    print_summary()


onerror:
    print_summary()
