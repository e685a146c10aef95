"""This file corrects what Snakemake 9.27 reruns, so that what is stale is rebuilt and nothing else is, and how it ends.

1. After each job, the jobs that wait for it are looked at again. Where it wrote the same bytes as before, and they have
   no reason of their own, they do not run. Snakemake alone decides once, before the first job.
2. A missing output is a reason to run, also where it lies between a target and its inputs. Snakemake alone takes the
   files after it for up to date. It deletes the outputs and the records of a job that fails: an edit of an early
   stage that fails once, and is then mended, would rebuild nothing.
3. An output whose bytes are not those of its manifest counts as missing. Where nothing could make it again, since it is
   an input from outside, what would be made of it is refused.
4. An ancient input, which must only be there, is no reason to run by being new among the inputs, either.
5. An input that stays as it is is read once for its hash. Snakemake alone reads it again after each job, for each of
   the jobs that read it.
6. SIGTERM ends it. Snakemake's own handler waits for a lock in the thread that may hold the lock, which it does while
   it looks after finished jobs, and then it waits for ever.
7. A job is told the process of its Snakemake, to end with it also where that is killed.

They replace methods that are not Snakemake's public API, so no other version is taken. What they rely on is checked by
tests/workflow/test_snakemake_internals.py, and what comes of it is compared with an oracle by test_early_cutoff.py.
"""

import _thread
import sys
from pathlib import Path

import snakemake
from snakemake.dag import DAG
from snakemake.io import _IOFile, is_flagged
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

from hexport.file_hashes import sha256
from hexport.job_process import PARENT
from hexport.provenance import damage, manifest_path

TRIED = "9.27.1"
if snakemake.__version__ != TRIED:
    sys.exit(f"error: Snakemake {snakemake.__version__}: this workflow corrects what {TRIED} reruns: run `make setup`")

dag_finish, dag_update_needrun = DAG.finish, DAG.update_needrun
inputs_of = PersistenceBase._input
exit_gracefully = JobScheduler.exit_gracefully
checksum = _IOFile.checksum
damaged_outputs = {}  # by job, as they were before it ran


async def finish(dag, job, update_checkpoint_dependencies=True):
    ready = await dag_finish(dag, job, update_checkpoint_dependencies)
    # In a dry run nothing is written, so what waits stays what could run. A job's own Snakemake does as it was told.
    if dag.workflow.dryrun or not dag.workflow.is_main_process:
        return ready
    for waiting in dag.needrun_jobs():
        if not dag.is_running(waiting):
            dag.reason(waiting).clear()
    await dag.update_needrun()
    running = {part: group for group in dag._running if group.is_group() for part in group}
    dag.update_groups()  # of the jobs that are still to run
    dag._group.update(running)
    dag.update_ready()
    return True


async def update_needrun(dag, create_inventory=False):
    for job in dag.jobs:
        if not dag.finished(job) and not dag.is_running(job):
            missing = [file async for file in job.missing_output(job.output)]
            dag.reason(job).missing_output.update(missing or damaged(dag, job))
    await dag_update_needrun(dag, create_inventory)
    if create_inventory and dag.workflow.is_main_process:  # before the first job
        for job in dag.needrun_jobs():
            refuse_damaged_sources(dag, job)


def damaged(dag, job):
    """Return outputs of a job that has not run which differ from their manifests. Those in a storage are left out."""
    if job not in damaged_outputs:
        damaged_outputs[job] = []
        for file in job.output if dag.workflow.is_main_process else []:
            if (
                not file.is_storage
                and manifest_path(Path(file)) in map(Path, job.output)
                and (fault := damage(Path(file)))
            ):
                print(f"note: {fault}, so it is made again", file=sys.stderr)
                damaged_outputs[job].append(file)
    return damaged_outputs[job]


def refuse_damaged_sources(dag, job):
    made = {file for files in dag.dependencies[job].values() for file in files}
    for file in job.input:
        if file not in made and not file.is_storage and (fault := damage(Path(file))):
            sys.exit(f"error: {fault}, and nothing here makes it: get another copy of it, with its manifest")


def inputs_that_count(persistence, job):
    ancient_files = {file for file in job.input if is_flagged(file, "ancient")}
    return [file for file in inputs_of(persistence, job) if file not in ancient_files]


async def remembered_checksum(file, threshold=None, force=False, algorithm=None):
    if file.is_storage or algorithm not in (None, "sha256") or not await file.exists():
        return await checksum(file, threshold, force, algorithm)
    return f"sha256:{sha256(file.file)}" if force or await file.is_checksum_eligible(threshold) else None


def exit_soon(scheduler, *args):
    _thread.start_new_thread(exit_gracefully, (scheduler,))  # not threading's: starting one of those takes a lock, too


DAG.finish, DAG.update_needrun = finish, update_needrun
PersistenceBase._input = inputs_that_count
_IOFile.checksum = remembered_checksum
JobScheduler.exit_gracefully = exit_soon
JOB_PREFIX = f"set -euo pipefail; export {PARENT}=$PPID; "
shell.prefix(JOB_PREFIX)
