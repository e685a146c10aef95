"""This module does the work on the emulator of this host in a process of its own. QNN's libraries and executorch's
runtime load files that anyone may have written, and can crash or hang on them.
"""

from collections.abc import Callable
from pathlib import Path

from hexport.child import answer
from hexport.config.devices import Device
from hexport.devices.measured import Measured
from hexport.progress import Progress

ADVICE = (
    "the program may be damaged: copy it again, or export it again; if it is only slow, raise timeout of the emulator "
    "in devices.yaml; the log has its last words"
)


def measure(device: Device, program: Path, progress: Progress, work: Callable, *arguments: object) -> Measured:
    """Run `work(progress, *arguments)`, which returns facts, in another process and return what it measured.

    Raises HexportError where `work` does, where the program makes it crash, and where it takes more than
    `device.timeout` seconds.
    """
    what = f"{program}: the emulator"
    facts, build_id, machine = answer(
        _measured, work, *arguments, progress=progress, what=what, advice=ADVICE, timeout=device.timeout
    )
    return Measured(device.name, facts, manifest={"machine": machine}, versions={"qnn": build_id})


def _measured(progress: Progress, work: Callable, *arguments: object) -> tuple[dict, str, dict]:
    """Return the facts, the build id of QNN, and the machine that the work computes on."""
    from hexport.qnn_sdk import qnn_build_id

    build_id = qnn_build_id()
    from hexport.decoder.device import machine

    return work(progress, *arguments), build_id, machine()
