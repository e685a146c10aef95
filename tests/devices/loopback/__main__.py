"""Run a loopback device until SIGTERM, or until the process that started it has gone."""

import argparse
import contextlib
import encodings.idna  # noqa: F401 - imported late otherwise, when the device's file system hides it
import os
import signal
import threading
from pathlib import Path

from loopback import control
from loopback.device import FEATURES, HOST, Device
from loopback.sandbox import Sandbox, best_mode


def main() -> None:
    options, parent = _options(), os.getppid()
    properties = _properties(options.soc) | dict(pair.split("=", 1) for pair in options.prop)
    mode = best_mode() if options.sandbox == "auto" else options.sandbox
    sandbox = Sandbox(options.root, mode, properties, options.expose, options.bind, options.disk_size)
    sandbox.populate()
    with open(options.log, "a", encoding="utf-8") as journal:
        device = Device(sandbox, options.port, options.features, journal)
        device.mode = options.mode
        listener = control.listen(options.control)
        sandbox.enter()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, a shell could not trap it
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: device.stopping.set())
        threading.Thread(target=device.accept, daemon=True).start()
        threading.Thread(target=control.serve, args=[device, listener], daemon=True).start()
        print(f"ready address={HOST}:{device.port} sandbox={mode}", flush=True)
        while not device.stopping.wait(0.2) and os.getppid() == parent:
            pass
        device.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the host that holds the device's files")
    add("--control", required=True, help="name of the control socket")
    add("--log", required=True, help="journal of what the host did, lines of JSON")
    add("--port", type=int, default=0, help="0: any that is free")
    add("--soc", default="SM8650")
    add("--prop", action="append", default=[], metavar="NAME=VALUE")
    add("--features", default=FEATURES, help="'': an old device, whose shell tells no exit codes")
    add("--sandbox", choices=("auto", "root", "userns", "rewrite"), default="auto")
    add("--expose", action="append", default=[], metavar="PATH", help="a path of the host, seen read-only")
    add("--bind", action="append", default=[], metavar="HOST:DEVICE", help="a path of the host, at one of the device")
    add("--disk-size", metavar="64m", help="of /data/local/tmp")
    add("--mode", choices=("device", "offline", "unauthorized"), default="device")
    return parser.parse_args()


def _properties(soc: str) -> dict[str, str]:
    """Those of `getprop`."""
    return {
        "ro.serialno": "LOOPBACK",
        "ro.product.name": "loopback",
        "ro.product.device": "loopback",
        "ro.product.model": "Loopback",
        "ro.soc.manufacturer": "QTI",
        "ro.soc.model": soc,
        "ro.product.cpu.abi": os.uname().machine.replace("aarch64", "arm64-v8a"),
        "ro.build.version.release": "15",
        "ro.build.version.sdk": "35",
    }


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
