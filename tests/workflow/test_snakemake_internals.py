"""What rules/staleness.smk needs of Snakemake beyond its API, and what comes of its corrections that a user notices."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import snakemake.api  # before its parts, which import each other
from forks import FORKS
from snakemake.dag import DAG
from snakemake.io import _IOFile
from snakemake.jobs import GroupJob, Job, Reason
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler
from workflow_tree import SNAKEMAKE, environment

REPOSITORY = Path(__file__).parents[2]
STALENESS = REPOSITORY / "rules" / "staleness.smk"
HEADER = f"""
import hashlib, sys

sys.path.insert(0, "{REPOSITORY}/scripts")
include: "{STALENESS}"
"""
# The corrections were tried with this version. With another one, read anew what they replace, and what that calls.
VERSION = "9.27.1"
JOB = """
import os, time
from pathlib import Path

from hexport.errors import one_line_errors


@one_line_errors
def main():
    Path("process").write_text(str(os.getpid()))
    time.sleep(60)


main()
"""
OPTIONS = ("--cores", "1", "--scheduler", "greedy")


def test_the_corrections_were_tried_with_this_version():
    assert snakemake.__version__ == VERSION
    assert f'TRIED = "{VERSION}"' in STALENESS.read_text()


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (DAG.finish, ["self", "job", "update_checkpoint_dependencies"]),
        (DAG.update_needrun, ["self", "create_inventory"]),
        (DAG.update_groups, ["self"]),
        (DAG.update_ready, ["self", "jobs"]),
        (DAG.is_running, ["self", "job"]),
        (DAG.finished, ["self", "job"]),
        (DAG.needrun_jobs, ["self", "exclude_finished"]),
        (DAG.reason, ["self", "job"]),
        (Reason.clear, ["self"]),
        (Job.missing_output, ["self", "requested"]),
        (GroupJob.is_group, ["self"]),
        (PersistenceBase._input, ["self", "job"]),
        (_IOFile.checksum, ["self", "threshold", "force", "algorithm"]),
        (_IOFile.is_checksum_eligible, ["self", "threshold"]),
        (JobScheduler.exit_gracefully, ["self", "args"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_what_the_corrections_replace_and_call_is_there(method, parameters):
    assert list(inspect.signature(method).parameters) == parameters


def test_what_the_corrections_read_is_there():
    initial = inspect.getsource(DAG.__init__)
    for attribute in ("_running", "_group", "_reason", "_dependencies"):
        assert f"self.{attribute} = " in initial or f"self.{attribute}: " in initial
    assert "update_needrun(create_inventory=True)" in inspect.getsource(DAG.init)
    assert isinstance(Reason().missing_output, set)


def test_another_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "Snakefile").write_text("import snakemake\n\nsnakemake.__version__ = '9.28.0'\n" + HEADER)
    done = _snakemake(tmp_path, "-n")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("error: Snakemake 9.28.0: this workflow corrects what 9.27.1 reruns")


def test_an_input_is_hashed_once(tmp_path):
    """Six jobs read a file that was touched, and are not stale; after each of six others they are looked at again."""
    counting = """
digest = hashlib.file_digest


def counted(file, *args):
    with open("hashed", "a") as log:
        print(file.name, file=log)
    return digest(file, *args)


hashlib.file_digest = counted


rule all:
    input:
        expand("{i}.{kind}", i=range(6), kind=["fresh", "stale"]),


rule fresh:
    input: "source"
    output: "{i}.fresh"
    shell: "cp {input} {output}"


rule stale:
    output: "{i}.stale"
    params: config.get("setting")
    shell: "touch {output}"
"""
    (tmp_path / "Snakefile").write_text(HEADER + counting)
    (tmp_path / "source").write_bytes(os.urandom(200_000))
    assert _snakemake(tmp_path).returncode == 0
    os.utime(tmp_path / "source")
    (tmp_path / "hashed").write_text("")
    done = _snakemake(tmp_path, "--config", "setting=1")
    assert len(re.findall(r"^(?:local)?rule stale", done.stderr, re.MULTILINE)) == 6, done.stderr
    assert "rule fresh" not in done.stderr
    assert (tmp_path / "hashed").read_text().split() == ["source"]


def test_sigterm_ends_it_while_it_looks_after_a_finished_job(tmp_path):
    """Snakemake alone waits for ever then: its handler wants a lock that the same thread holds."""
    job = """
rule all:
    output: "never"
    shell: "touch done"
"""
    (tmp_path / "Snakefile").write_text(HEADER + job)
    # For this long it looks for a missing output, with the lock held.
    process = subprocess.Popen(
        [*SNAKEMAKE, *OPTIONS, "--latency-wait", "3"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    _wait_for((tmp_path / "done").exists)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Shutting down" in said


def test_a_job_ends_with_a_snakemake_that_is_killed(tmp_path):
    job = f"""
rule all:
    shell: "PYTHONPATH={REPOSITORY}/scripts {sys.executable} job.py; true"
"""
    (tmp_path / "Snakefile").write_text(HEADER + job)
    (tmp_path / "job.py").write_text(JOB)
    process = subprocess.Popen([*SNAKEMAKE, *OPTIONS], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: (tmp_path / "process").exists() and (tmp_path / "process").read_text())
    finally:
        process.kill()
        process.wait()
    script = Path("/proc", (tmp_path / "process").read_text())
    _wait_for(lambda: not script.exists())


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _snakemake(folder: Path, *args: str) -> subprocess.CompletedProcess:
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    return FORKS.run("-m", "snakemake", *OPTIONS, *args, cwd=folder, env=environment() | cache)
