"""The shell service of a loopback device: runs a command, and hands its streams through."""

import contextlib
import os
import select
import signal
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from loopback.faults import Quit
from loopback.wire import Dropped, Stream

if TYPE_CHECKING:
    from loopback.device import Device

# Kinds of packets of shell v2.
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
CHUNK = 32768


class Shell:
    """One command. Of the older protocol, without `v2`, the host gets output only: stderr with it, and no exit code."""

    def __init__(self, device: "Device", stream: Stream):
        self.device, self.stream = device, stream
        head, _, self.command = stream.service.partition(":")
        self.v2 = "v2" in head.split(",")
        self.start = time.time()
        self.fault = device.faults.find("shell", self.command)
        self.action = self.fault.action if self.fault else None
        self.muted = threading.Event()  # the host is told nothing more

    def serve(self) -> None:
        if self.action == "fail":
            self._send(STDERR, f"{self.fault.message}\n".encode())
            self._finish(self.fault.code)
            return
        if self.fault and not self.fault.after and self.action in ("hang", "drop", "vanish"):
            self._record()
            self.device.suffer(self.fault, self.stream)
        if self.action == "noise":
            self._send(STDERR, f"{self.fault.message}\n".encode())
        if self.action == "silent":
            self.muted.set()
        process = self.device.start(self.command, separate_stderr=self.v2)
        timer = threading.Timer(self.fault.after if self.fault else 0, self._suffer, [process])
        timer.daemon = True
        if self.fault and self.fault.after:
            timer.start()
        threading.Thread(target=self._feed, args=[process], daemon=True).start()
        heard = self._pump(process)
        timer.cancel()
        if not heard:
            self._record(fault="host gone")
            for pipe in (process.stdout, process.stderr):  # its next write breaks the pipe, as on a phone
                if pipe:
                    pipe.close()
            self.device.end(process)
            return
        code = self.device.end(process)
        if self.action == "hang" and self.muted.is_set():
            self.device.suffer(self.fault, self.stream)
        if self.muted.is_set():
            self._record(exit=code)
            return
        self._finish(code if code >= 0 else 128 - code)

    def _suffer(self, process: subprocess.Popen) -> None:
        """The fault that befalls the command while it runs."""
        match self.action:
            case "kill":
                self.device.kill_session(process.pid)
            case "hang":
                self.muted.set()
            case "drop" | "vanish":
                with contextlib.suppress(Quit):
                    self.device.suffer(self.fault, self.stream)

    def _feed(self, process: subprocess.Popen) -> None:
        """Hand on what the host sends, until it is gone."""
        with contextlib.suppress(Dropped, OSError, ValueError):
            while True:
                kind, size = struct.unpack("<BI", self.stream.read(5)) if self.v2 else (STDIN, 1)
                data = self.stream.read(size)
                if kind == STDIN:
                    process.stdin.write(data)
                    process.stdin.flush()
                elif kind == CLOSE_STDIN:
                    process.stdin.close()
        if self.stream.closed.is_set() and process.poll() is None:
            with contextlib.suppress(OSError):  # as adbd does, to the shell only: what it started may live on
                os.kill(process.pid, signal.SIGHUP)
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()

    def _pump(self, process: subprocess.Popen) -> bool:
        """Send what the command prints, to its end. False where the host went away before."""
        kinds = {process.stdout.fileno(): STDOUT}
        if process.stderr:
            kinds[process.stderr.fileno()] = STDERR
        try:
            while kinds:
                for descriptor in select.select(list(kinds), [], [], 0.5)[0]:
                    if not (data := os.read(descriptor, CHUNK)):
                        del kinds[descriptor]
                    elif not self.muted.is_set():
                        self._send(kinds[descriptor], data)
        except Dropped:
            return False
        return True

    def _send(self, kind: int, data: bytes) -> None:
        self.stream.write(struct.pack("<BI", kind, len(data)) + data if self.v2 else data)

    def _finish(self, code: int) -> None:
        self._record(exit=code)
        if self.v2:
            self._send(EXIT, bytes([code & 255]))

    def _record(self, **facts: object) -> None:
        seconds = round(time.time() - self.start, 3)
        facts = {"cmd": self.command, "v2": self.v2, "exit": None, "secs": seconds, "fault": self.action, **facts}
        self.device.record("shell", **facts)
