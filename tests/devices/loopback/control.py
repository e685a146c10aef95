"""The control socket of a loopback device: lines of JSON, by which a test says what happens to the device."""

import contextlib
import json
import socket
import threading

from loopback.device import VANISH_SECONDS, Device
from loopback.faults import Fault


def listen(name: str) -> socket.socket:
    """An abstract Unix socket: nothing of it lies in a folder, and its name may be long."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen()
    return listener


def serve(device: Device, listener: socket.socket) -> None:
    while not device.stopping.is_set():
        connected, _ = listener.accept()
        threading.Thread(target=_converse, args=[device, connected], daemon=True).start()


def ask(name: str, request: dict) -> dict:
    """The host's side."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(f"\0{name}")
        with connected.makefile("rwb") as file:
            file.write(json.dumps(request).encode() + b"\n")
            file.flush()
            return json.loads(file.readline())


def _converse(device: Device, connected: socket.socket) -> None:
    with connected, connected.makefile("rwb") as file, contextlib.suppress(OSError):
        for line in file:
            try:
                _obey(device, json.loads(line))
                answer = {"ok": True}
            except (TypeError, ValueError, KeyError) as error:
                answer = {"ok": False, "error": repr(error)}
            file.write(json.dumps(answer).encode() + b"\n")
            file.flush()


def _obey(device: Device, request: dict) -> None:
    match request["op"]:
        case "add":
            device.faults.add(Fault(**request["rule"]))
        case "clear":
            device.faults.clear()
        case "drop":
            device.drop()
        case "vanish":
            device.vanish(float(request.get("secs", VANISH_SECONDS)))
        case "mode":
            device.mode = request["mode"]
            device.drop()
        case unknown:
            raise ValueError(f"unknown op {unknown!r}")
