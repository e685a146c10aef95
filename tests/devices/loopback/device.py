"""A loopback device: its connections, its services, and what befalls it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
import traceback
from pathlib import Path
from typing import TextIO

from loopback.faults import Fault, Faults, Quit
from loopback.sandbox import Sandbox
from loopback.shell import Shell
from loopback.sync import serve_sync
from loopback.wire import Connection, Dropped, Stream

HOST = "127.0.0.1"
FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir,fixed_push_symlink_timestamp"
VANISH_SECONDS = 5.0


class Device:
    """`mode` is device, offline or unauthorized. One without features is old: its shell tells no exit codes."""

    def __init__(self, sandbox: Sandbox, port: int, features: str, journal: TextIO):
        self.sandbox, self.features = sandbox, features
        self.mode = "device"
        self.faults = Faults()
        self.stopping = threading.Event()
        self._journal, self._journal_lock = journal, threading.Lock()
        self._connections: set[Connection] = set()
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self.port = port
        self._listener: socket.socket | None = None
        self.listen()

    def record(self, event: str, **facts: object) -> None:
        """Write a line of the journal."""
        with self._journal_lock:
            self._journal.write(json.dumps({"t": round(time.time(), 3), "event": event, **facts}) + "\n")
            self._journal.flush()

    def banner(self) -> bytes:
        names = [
            f"ro.product.{key}={self.sandbox.properties[f'ro.product.{key}']}" for key in ("name", "model", "device")
        ]
        return f"device::{';'.join(names)};features={self.features}".encode()

    def listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(16)
        self.port = listener.getsockname()[1]
        self._listener = listener

    def accept(self) -> None:
        """Take connections until the device stops."""
        while not self.stopping.is_set():
            listener = self._listener
            try:
                if listener is None or not select.select([listener], [], [], 0.2)[0]:
                    time.sleep(0.02)
                    continue
                connected, (host, port) = listener.accept()
            except (OSError, ValueError):  # it was closed meanwhile: the device has vanished
                time.sleep(0.05)
                continue
            connection = Connection(self, connected, f"{host}:{port}")
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def serve(self, stream: Stream) -> None:
        """Serve a stream that the host opens, to its end."""
        services = {"shell": lambda: Shell(self, stream).serve(), "sync": lambda: serve_sync(self, stream)}
        name = stream.service.partition(":")[0].partition(",")[0]
        try:
            if name in services:
                stream.accept()
                services[name]()
            else:
                self.record("refused", service=stream.service)
        except (Dropped, Quit):
            pass
        except Exception:
            self.record("error", service=stream.service, trace=traceback.format_exc())
        finally:
            stream.close()

    def start(self, command: str, separate_stderr: bool) -> subprocess.Popen:
        process = subprocess.Popen(
            self.sandbox.argv(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if separate_stderr else subprocess.STDOUT,
            env=self.sandbox.environment(),
            cwd=self.sandbox.folder(),
            start_new_session=True,
        )
        self._processes.add(process)
        return process

    def end(self, process: subprocess.Popen) -> int:
        code = process.wait()
        self._processes.discard(process)
        return code

    def suffer(self, fault: Fault, stream: Stream) -> None:
        """A fault that ends a stream."""
        match fault.action:
            case "drop":
                stream.connection.kill(reset=True)
            case "vanish":
                self.vanish(VANISH_SECONDS if fault.secs is None else fault.secs)
            case "hang":
                stream.closed.wait(fault.secs)
        raise Quit

    def drop(self) -> None:
        """Cut the link."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.kill(reset=True)

    def vanish(self, seconds: float) -> None:
        """Cut the link; the device cannot be reached for so long."""
        listener, self._listener = self._listener, None
        if listener:
            listener.close()
        self.drop()
        threading.Thread(target=self._return, args=[seconds], daemon=True).start()

    def _return(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            return
        for _ in range(100):
            with contextlib.suppress(OSError):  # the port is not free yet
                self.listen()
                return
            time.sleep(0.1)

    def stop(self) -> None:
        """As a device that is switched off: nothing of it goes on."""
        self.stopping.set()
        self.drop()
        for process in list(self._processes):
            self.kill_session(process.pid)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # not ours, or gone
                if self._runs_here(process) and int(process.name) != os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)

    def _runs_here(self, process: Path) -> bool:
        if self.sandbox.mode == "rewrite":
            return (process / "cwd").resolve().is_relative_to(self.sandbox.root)
        return os.path.samestat(os.stat(process / "root"), os.stat("/"))

    def kill_session(self, leader: int) -> None:
        """SIGKILL to all of a shell's session."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.getsid(int(process.name)) == leader:
                    os.kill(int(process.name), signal.SIGKILL)
