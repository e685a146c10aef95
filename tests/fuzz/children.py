"""Children of `hexport.child` as forks: a fresh interpreter would import torch for seconds, once a case."""

import os
import signal
import subprocess
import sys

import hexport.child


class _Fork:
    """What `hexport.child` uses of a subprocess.Popen."""

    def __init__(self, command: list[str], *, pass_fds: list[int], **_: object):
        self.status: int | None = None
        (theirs,) = pass_fds
        sys.stdout.flush()
        sys.stderr.flush()
        if not (pid := os.fork()):
            os.closerange(3, theirs)
            os.closerange(theirs + 1, 256)
            hexport.child.main(theirs)
        self.pid = pid

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def fork_them() -> None:
    fake = type(subprocess)("subprocess")
    fake.__dict__.update(vars(subprocess), Popen=_Fork)
    hexport.child.subprocess = fake
