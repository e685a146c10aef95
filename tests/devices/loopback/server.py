"""An adb server of a test's own."""

import importlib.util
import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from loopback.phone import end

SECONDS = 120


class AdbServer:
    """A private adb server from start to end of a `with` block: with a port and a home of its own, and blind to the
    emulators and phones of this machine's network. `env` leads a child process to it.
    """

    def __init__(self, home: str | Path, port: int | None = None, adb: str | None = None):
        self.home = str(home)
        os.makedirs(self.home, exist_ok=True)
        self.port = port or _free_port()
        self.adb = adb or bundled_adb()
        self.env = os.environ | {
            "HOME": self.home,
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "ADBUTILS_ADB_PATH": self.adb,
            "ADB_MDNS": "0",
            "ADB_EMU": "0",
            "ADB_USB": "0",  # an adb server first looks for phones on USB, for three seconds
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
        }
        self.env.pop("ANDROID_SERIAL", None)

    def __enter__(self) -> "AdbServer":
        command = [self.adb, "-P", str(self.port), "nodaemon", "server"]
        with open(os.path.join(self.home, "adb-server.log"), "ab") as log:
            self.p = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise RuntimeError(f"adb server did not start: see {self.home}/adb-server.log")

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        end(self.p)

    def run(self, *args: object, timeout: float = SECONDS) -> subprocess.CompletedProcess:
        """An adb command."""
        command = [self.adb, *map(str, args)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False)


def bundled_adb() -> str:
    """The adb that comes with adbutils."""
    return str(Path(importlib.util.find_spec("adbutils").origin).parent / "binaries" / "adb")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
