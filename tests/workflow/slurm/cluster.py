"""A workflow's folder and the Slurm that its jobs go to, as tests use it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from one_node import PARTITION
from workflow_tree import environment

# What a site sets, and less patience than on a cluster.
SITE = (
    *("--workflow-profile", "profiles/slurm", "--default-resources"),
    *(f"slurm_partition={PARTITION}", "slurm_account=tests", "mem_mb=700", "runtime=5"),
    *("--max-threads", "1", "--latency-wait", "5", "--seconds-between-status-checks", "1"),
    *("--slurm-init-seconds-before-status-checks", "3"),
)
PATIENCE_S = 300


@dataclass
class Cluster:
    """A workflow's folder, the Slurm that its jobs go to, and the Python of Snakemake and of its jobs.

    Forks start in a moment, and Slurm neither counts their memory nor kills them.
    """

    path: Path
    variables: dict[str, str]
    python: str = sys.executable
    started: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *args: str) -> subprocess.Popen:
        """Snakemake in the background, with a site's options."""
        process = subprocess.Popen(
            [self.python, "-m", "snakemake", *args, *SITE],
            cwd=self.path,
            env=environment() | self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def snakemake(self, *args: str, code: int = 0) -> str:
        """What Snakemake says, up to its end with this exit code."""
        return self.end(self.start(*args), code)

    def end(self, process: subprocess.Popen, code: int = 0) -> str:
        """What a Snakemake in the background says, up to its end with this exit code."""
        text = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == code, text
        return text

    def command(self, *words: str) -> str:
        """What a command of Slurm's says."""
        return subprocess.run(words, env=self.variables, check=True, capture_output=True, text=True).stdout

    def queue(self) -> list[str]:
        """The numbers of the jobs that wait or run."""
        return self.command("squeue", "--noheader", "--format=%A").split()

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for job in self.queue():
            self.command("scancel", job)
        wait_until(lambda: not self.queue())


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)
