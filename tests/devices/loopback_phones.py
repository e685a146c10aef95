"""Loopback phones as hexport sees them, and what runs on them. Not in conftest.py: tests of other folders have one too,
and `import conftest` gives whichever was first."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loopback import AdbServer, LoopbackDevice

import hexport
from hexport.devices.link.adb import Phone

SCRIPTS = Path(hexport.__file__).parents[1]


def upstream_runner() -> str:
    """A stand-in for the C++ runner, as an executable script: it sees this process' Python and hexport."""
    names = "lean_executorch", "upstream_runner"
    lean, source = (Path(__file__).with_name(f"{name}.py").read_text() for name in names)
    return f"#!{sys.executable}\nimport sys\n\nsys.path.insert(0, {str(SCRIPTS)!r})\n{lean}\n{source}"


def phone_of(device: LoopbackDevice, server: AdbServer, name: str = "s24") -> Phone:
    return Phone(name, device.address, "127.0.0.1", server.port)


def running(words: str) -> list[int]:
    """Ids of the processes of this host, those of loopback phones too, that have these words in their command line.

    Without the shells that were told to start them.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ")
            if words.encode() in line and b" -c " not in line:
                found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Fail unless the condition comes true within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
