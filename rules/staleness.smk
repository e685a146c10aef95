"""Three corrections of what Snakemake 9.27 reruns, all needed for `what is stale is rebuilt, nothing else is`.

1. After each job, the jobs that wait for it are looked at again. Where it wrote the same bytes as before, and they have
   no reason of their own, they do not run. Snakemake alone decides once, before the first job.
2. A missing output is a reason to run, also where it lies between a target and its inputs. Snakemake alone takes the
   files after it for up to date. It deletes the outputs and the records of a job that fails: an edit of an early
   stage that fails once, and is then mended, would rebuild nothing.
3. An ancient input, which must only be there, is no reason to run by being new among the inputs, either.

They replace two methods of its DAG and one of its records, so the version of Snakemake is pinned;
tests/workflow/test_early_cutoff.py compares the outcome with an oracle.
"""

from snakemake.dag import DAG
from snakemake.io import is_flagged
from snakemake.persistence import PersistenceBase

dag_finish, dag_update_needrun = DAG.finish, DAG.update_needrun
inputs_of = PersistenceBase._input


async def finish(dag, job, update_checkpoint_dependencies=True):
    ready = await dag_finish(dag, job, update_checkpoint_dependencies)
    if dag.workflow.dryrun:  # nothing is written, so what waits stays what could run
        return ready
    for waiting in dag.needrun_jobs():
        if waiting not in dag._running:
            dag.reason(waiting).clear()
    await dag.update_needrun()
    dag.update_ready()
    return True


async def update_needrun(dag, create_inventory=False):
    for job in dag.jobs:
        if not dag.finished(job) and job not in dag._running:
            dag.reason(job).missing_output.update([file async for file in job.missing_output(job.output)])
    await dag_update_needrun(dag, create_inventory)


def inputs_that_count(persistence, job):
    ancient_files = {file for file in job.input if is_flagged(file, "ancient")}
    return [file for file in inputs_of(persistence, job) if file not in ancient_files]


DAG.finish, DAG.update_needrun = finish, update_needrun
PersistenceBase._input = inputs_that_count
