"""A job's process ends with the Snakemake that started it."""

import os
import select
import signal
import threading

PARENT = "HEXPORT_SNAKEMAKE"  # environment variable of a job: the process that wants its result


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
