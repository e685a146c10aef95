from hexport.build import outcome

failures = {}  # by jobs, of which a group has several
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
            made_of = [*each.input.templates, *each.input.shards]
            print(outcome.program_line(each.output.artifact, made_of), file=sys.stderr)
    return ready


def note_failed(record):
    """A filter of Snakemake's messages, which lets all pass."""
    event = getattr(record, "event", None)
    if event is LogEvent.JOB_ERROR:
        jobs = [vars(record)]
    elif event is LogEvent.GROUP_ERROR:
        jobs = record.job_error_info["jobs"]
    else:
        return True
    failures[frozenset(job["jobid"] for job in jobs)] = [
        outcome.Failure(job["rule_name"], job["output"][0], next(iter(job["log"]), None)) for job in jobs
    ]
    return True


DAG.finish = finish_and_say
logger.addFilter(note_failed)


def print_summary():
    programs = [job for job in workflow.dag.jobs if job.rule.name.endswith("assemble_program")]
    waiting = set(workflow.dag.needrun_jobs()) - built_programs
    missing = [job.output.artifact for job in programs if job in waiting]
    kept = len(programs) - len(built_programs) - len(missing)
    failed = map(outcome.that_failed, failures.values())
    for line in outcome.summary(len(built_programs), kept, missing, failed):
        print(line, file=sys.stderr)


onsuccess:
    print_summary()


onerror:
    print_summary()
