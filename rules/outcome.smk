from hexport.build import outcome

failures = {}  # by jobs, of which a group has several
built_programs = set()
dags = []


def note_finished(dag, job):
    """Say that a program is finished, and forget that an attempt before it failed."""
    jobs = set(job) if job.is_group() else {job}
    failures.pop(frozenset(map(dag.jobid, jobs)), None)
    for each in jobs:
        if each.rule.name.endswith("assemble_program") and dag.workflow.is_main_process and not dag.workflow.dryrun:
            built_programs.add(each)
            made_of = [*each.input.templates, *each.input.shards]
            print(outcome.program_line(each.output.artifact, made_of), file=sys.stderr)


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


logger.addFilter(note_failed)


def print_summary():
    for dag in dags[-1:]:
        programs = [job for job in dag.jobs if job.rule.name.endswith("assemble_program")]
        waiting = set(dag.needrun_jobs()) - built_programs
        missing = [job.output.artifact for job in programs if job in waiting]
        kept = len(programs) - len(built_programs) - len(missing)
        failed = map(outcome.that_failed, failures.values())
        for line in outcome.summary(len(built_programs), kept, missing, failed):
            print(line, file=sys.stderr)


onsuccess:
    print_summary()


onerror:
    print_summary()
