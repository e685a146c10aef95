"""This module talks to a phone through an adb server: is it there, run a command, push a file, pull a file. Each call
has a total deadline.
"""

import contextlib
import io
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adbutils import AdbTimeout

from hexport.config.devices import Device
from hexport.devices.link.adb_server import LINK_ERRORS, Client, client
from hexport.devices.link.faults import PassingFault, PhoneFault, said_by_phone
from hexport.devices.link.shell_stream import Output, Stream, script
from hexport.errors import HexportError

STATE_S = 10.0  # an adb server answers at once; one that is still starting, in seconds
CONNECT_S = 5.0
REDIAL_S = 1.0
COMMAND_BYTES = 60_000  # adb's protocol counts a command's bytes in four hexadecimal digits
WHAT_TO_DO = {
    "offline": "unplug and plug in the phone, or run `adb reconnect offline`",
    "unauthorized": "unlock the phone and tap Allow in its dialog about USB debugging",
    "missing": "check the cable and that USB debugging is on (developer options); `adb devices` must list it",
    "no permissions": "give this user access to USB devices (udev rules; docs/phones.md)",
}


@dataclass(frozen=True)
class Phone:
    """An instance is a phone that an adb server at `host`:`port` knows by its serial number. `name` is its name in
    devices.yaml.
    """

    name: str
    serial: str
    host: str
    port: int

    @classmethod
    def of(cls, device: Device) -> "Phone":
        """Return the phone that a device of devices.yaml describes."""
        return cls(device.name, device.serial, *device.server)

    def __str__(self) -> str:
        return f"phone {self.name} ({self.serial})"

    def state(self) -> str:
        """Return `device` where the phone is ready, else what adb says of it (`offline`, `unauthorized`, …), or
        `missing`.

        The call starts the adb server if it is one of this host. Raises PassingFault where the server does not answer.
        """
        with client(self.host, self.port, STATE_S) as adb:
            try:
                state = next((entry.state for entry in adb.list() if entry.serial == self.serial), "missing")
            except LINK_ERRORS:
                raise PassingFault(
                    f"adb server {self.host}:{self.port}: no adb server answers there; restart it "
                    "(`adb kill-server`), or correct adb_server in devices.yaml"
                ) from None
        return "no permissions" if state == "no" else said_by_phone(state)  # adbutils takes the first of its words

    def check_online(self, seconds: float = 0.0) -> None:
        """Wait up to `seconds` for the phone, and connect to it where it is one over TCP.

        Raises PhoneFault where the phone cannot be used, PassingFault where it may come back by itself.
        """
        start = time.monotonic()
        deadline = start + seconds
        while True:
            state = self._connected_state(time.monotonic() - start)
            if state == "device":
                return
            todo = WHAT_TO_DO.get(state, "see `adb devices`; the phone must be started and list as `device`")
            line = f"{self}: {state}; {todo}"
            if state in ("unauthorized", "no permissions"):
                raise PhoneFault(line)
            if time.monotonic() >= deadline:
                raise PassingFault(line)
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))

    def shell(self, command: str, seconds: float) -> Output:
        """Run a command of the phone's shell, without input, to its end. No exit code raises an error.

        Raises PhoneFault past the deadline, PassingFault where the link broke.
        """
        with self.open(command, seconds) as stream:
            return stream.rest()

    @contextlib.contextmanager
    def open(
        self,
        command: str,
        seconds: float,
        *,
        folder: str = "/",
        name: str = "",
        if_lost: str = ":",
        too_short: str = "",
    ) -> Iterator[Stream]:
        """Start a command of the phone's shell and yield it as a stream. When the block ends, the command has ended or
        is killed.

        The command runs in `folder`. Where the block or the link ends before the command, the phone runs `if_lost`. Two
        arguments are for messages: `name` is what to call the command, `too_short` says what to do where `seconds` are
        not enough.
        """
        where = f"{self}: {name or command.split(maxsplit=1)[0]}"
        marker = secrets.token_hex(8)
        line = f"shell,v2,raw:{script(command, seconds, marker, folder, if_lost)}"
        _check_text(line, where)
        with client(self.host, self.port, seconds) as adb:
            with self._link_faults("asking for its shell", adb):
                device = adb.device(self.serial)
                if "shell_v2" not in device.get_features().split(","):
                    raise PhoneFault(
                        f"{self}: its adb tells no exit codes (shell_v2); take one with Android 7 or newer"
                    )
                connection = device.open_transport(timeout=None)
                connection.send_command(line)
                connection.check_okay()
            yield Stream(adb, connection, marker, where, seconds, too_short)

    def push(
        self,
        source: Path | bytes,
        path: str,
        seconds: float,
        mode: int = 0o644,
        on_bytes: Callable[[int], None] = lambda sent: None,
    ) -> None:
        """Write a file of this host, or bytes, to `path` on the phone. What arrived is not verified. `on_bytes` is
        called with the number of bytes that are sent so far.

        Raises PhoneFault where the phone refuses the file, PassingFault where the link broke or the transfer took
        longer than `seconds`.
        """
        _check_text(path, str(self))
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        what = f"{size} bytes" if isinstance(source, bytes) else f"{source.name}, {size / 1e6:.1f} MB"
        with client(self.host, self.port, seconds) as adb:
            file = _Source(io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb"), on_bytes)  # noqa: SIM115
            with self._link_faults(f"pushing {what}", adb), file:
                adb.sync(self.serial).push(file, path, mode)

    def pull(self, path: str, target: Path, size: int, seconds: float) -> None:
        """Read the file `path` of the phone, of `size` bytes, into `target`. What arrived is not verified, and may be a
        part.

        Raises PhoneFault where the phone refuses or sends more, PassingFault where the link broke or the transfer took
        longer than `seconds`.
        """
        _check_text(path, str(self))
        name, left = path.rsplit("/", 1)[-1], size
        with client(self.host, self.port, seconds) as adb, open(target, "wb") as file:
            chunks = adb.sync(self.serial).iter_content(path)
            while True:
                with self._link_faults(f"pulling {name}", adb):
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                left -= len(chunk)
                if left < 0:
                    raise PhoneFault(f"{self}: {name!r} has more than its {size} bytes; see what else uses the phone")
                file.write(chunk)

    def _connected_state(self, waited: float) -> str:
        """Return the state, after an attempt to connect where the phone hangs on the network."""
        state = self.state()
        # The server dials a phone that went offline again at once, and then only every ten seconds, and takes it for
        # connected meanwhile.
        if ":" in self.serial and (state == "missing" or (state == "offline" and waited > REDIAL_S)):
            with client(self.host, self.port, CONNECT_S) as adb, contextlib.suppress(*LINK_ERRORS):
                adb.disconnect(self.serial)
                adb.connect(self.serial)
            state = self.state()
        return state

    @contextlib.contextmanager
    def _link_faults(self, doing: str, adb: Client) -> Iterator[None]:
        """Turn what adbutils raises into PhoneFault where the phone says no, and into PassingFault otherwise."""
        try:
            yield
        except LINK_ERRORS as error:
            said = said_by_phone((adb.refusal() or str(error)).partition("\n")[0])
            states = {
                "device offline": "offline",
                "device unauthorized": "unauthorized",
                f"'{self.serial}' not found": "missing",
            }
            state = next((state for words, state in states.items() if words in said), "")
            if isinstance(error, TimeoutError | AdbTimeout):
                line = f"{doing} took too long; see whether the phone hangs, and check the cable"
            elif adb.refusal():
                raise PhoneFault(f"{self}: {doing}: the phone refuses: {said}{self._advice(said)}") from None
            elif state == "unauthorized":
                raise PhoneFault(f"{self}: unauthorized; {WHAT_TO_DO[state]}") from None
            elif state:
                line = f"{state}; {WHAT_TO_DO[state]}"
            else:
                line = f"the link broke while {doing}{f' ({said})' if said else ''}; check the cable and `adb devices`"
            raise PassingFault(f"{self}: {line}") from None

    def _advice(self, said: str) -> str:
        """Return what to do about a phone's refusal."""
        if "No space" in said:
            with contextlib.suppress(PhoneFault):
                free = free_bytes(self.shell("df -k /data/local/tmp | tail -n 1", STATE_S).text())
                known = f", {free / 1e6:.0f} MB free" if free is not None else ""
                return f"{known}; free some of its storage"
        if "Read-only" in said or "denied" in said:
            return "; see whether `adb shell touch /data/local/tmp/x` works, else restart the phone"
        return ""


def free_bytes(line: str) -> int | None:
    """Return the free bytes that the last line of `df -k` tells; None for any other line.

    The words of that line are file system, blocks, used, available, percent and mount point.
    """
    found = re.search(r" ([0-9]{1,12}) +[0-9]+% ", line)
    return int(found[1]) * 1024 if found else None


class _Source(io.RawIOBase):
    """A file on its way to a phone, which adbutils reads in small pieces."""

    def __init__(self, file: io.BufferedIOBase, on_bytes: Callable[[int], None]):
        self._file, self._on_bytes = file, on_bytes
        self._sent = 0

    def read(self, size: int = -1) -> bytes:
        self._on_bytes(self._sent)
        try:
            data = self._file.read(size)
        except OSError as error:
            raise HexportError(f"{self._file.name}: {error.strerror}; it could not be pushed") from None
        self._sent += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def _check_text(text: str, where: str) -> None:
    """Raise HexportError for text that adb would not bring to the phone as it is."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise HexportError(f"{where}: {text[:80]!a} is not Unicode; rename the file") from None
    if "\0" in text or size > COMMAND_BYTES:
        fault = "a NUL character" if "\0" in text else f"over {COMMAND_BYTES} bytes"
        raise HexportError(f"{where}: {text[:80]!r}… has {fault}, which no command of a phone can; put it into a file")
