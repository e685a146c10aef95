"""This module looks after processes of this host: a job's ends with the Snakemake that started it, and what ended ones
left may go."""

import os
import select
import signal
import threading
from pathlib import Path

PARENT = "HEXPORT_SNAKEMAKE"  # environment variable of a job: the process that wants its result


def is_running(pid: int | str) -> bool:
    """Return whether a process of this host runs. One that has ended may still be listed: nobody has asked how it
    ended."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def end_with_snakemake() -> None:
    """End this process as soon as that of the environment has ended; a script that a user starts has none.

    A Snakemake that is killed, by `kill -9` or for its memory, cannot end its jobs itself.
    """
    if not (pid := os.environ.pop(PARENT, "")).isdecimal():
        return
    try:
        snakemake = os.pidfd_open(int(pid))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except OSError:  # a kernel before Linux 5.3 has nothing to wait with
        return
    threading.Thread(target=_end_after, args=(snakemake,), daemon=True).start()


def _end_after(process: int) -> None:
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    waiting.poll()
    os.kill(os.getpid(), signal.SIGTERM)
