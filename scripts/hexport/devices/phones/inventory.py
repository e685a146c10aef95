"""This module looks at the devices of devices.yaml as they are now: what each says of itself, and what to do about each
problem.
"""

import contextlib
import importlib.util
import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from rich.table import Table

from hexport.config.devices import Device
from hexport.devices.link.adb import Phone
from hexport.devices.link.adb_server import LINK_ERRORS, client
from hexport.devices.link.faults import PhoneFault, said_by_phone
from hexport.devices.phones import leases
from hexport.devices.phones.facts import ANDROID, HOST, SECONDS, Facts, check_soc, platform, read_facts
from hexport.devices.phones.libraries import qnn_libraries, runner_files
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.tables import printed_table

A = TypeVar("A")
B = TypeVar("B")
STATES = {"device": "online", "unauthorized": "unauthorised"}
LITTLE_MB = 2048


@dataclass(frozen=True)
class Server:
    """An instance tells of an adb server its version, or why it does not answer, and the serial
    numbers of its phones.
    """

    version: str = ""
    fault: str = ""
    serials: tuple[str, ...] = ()


@dataclass
class Entry:
    """An entry tells of a device as it is now; what could not be found out is empty. `problems` say what is wrong and
    what to do.
    """

    device: Device
    state: str
    facts: Facts | None = None
    server: Server = field(default_factory=Server)
    used_by: str = ""
    problems: list[str] = field(default_factory=list)


def take_inventory(devices: Iterable[Device]) -> list[Entry]:
    """Look at all devices at once and return an entry of each. Every question has a deadline of seconds, so a device
    that hangs does not hold up the others.
    """
    devices = list(devices)
    phones = [device for device in devices if device.kind == "adb"]
    addresses = sorted({phone.server for phone in phones})
    servers = dict(zip(addresses, _at_once(_ask_server, addresses), strict=True))
    claimed = {(phone.server, phone.serial) for phone in phones}
    strangers = {
        address: [serial for serial in server.serials if (address, serial) not in claimed]
        for address, server in servers.items()
    }

    def entry(device: Device) -> Entry:
        if device.kind == "emulator":
            return _emulator(device)
        return _phone(device, servers[device.server], strangers[device.server])

    return _at_once(entry, devices)


def device_table(entries: Iterable[Entry]) -> Table:
    """Return the table of devices that scripts/devices.py prints."""
    table = printed_table(("device", "kind", "state", "SoC", "SoC read", "Android", "free", "adb", "in use"))
    for entry in entries:
        facts = entry.facts
        read = (facts.soc or "not said", facts.android or "none", _free(facts.free_mb)) if facts else ("", "", "")
        device = entry.device
        table.add_row(device.name, device.kind, entry.state, device.soc, *read, entry.server.version, entry.used_by)
    return table


def problem_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield each problem once, behind the names of the devices that have it: phones of an adb server share its
    problems.
    """
    sharing: dict[str, list[str]] = {}
    for entry in entries:
        for problem in entry.problems:
            sharing.setdefault(problem, []).append(entry.device.name)
    for problem, names in sharing.items():
        yield f"{', '.join(names)}: {problem}"


def _at_once(ask: Callable[[A], B], items: list[A]) -> list[B]:
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        return list(pool.map(ask, items))


def _ask_server(address: tuple[str, int]) -> Server:
    host, port = address
    try:
        with client(host, port, SECONDS) as adb:
            return Server(f"1.0.{adb.server_version()}", "", tuple(said_by_phone(entry.serial) for entry in adb.list()))
    except PhoneFault as fault:
        return Server(fault=str(fault))
    except LINK_ERRORS as error:
        said = said_by_phone(str(error))
        return Server(
            fault=f"adb server {host}:{port}: no adb server answers there ({said}); restart it, or correct adb_server"
        )


def _emulator(device: Device) -> Entry:
    entry = Entry(device, "ready")
    with _problems_of(entry):
        if importlib.util.find_spec("executorch") is None:
            raise HexportError("executorch is not installed; run `make setup`")
        qnn_libraries(device, HOST)
    if entry.problems:
        entry.state = "not ready"
    return entry


def _phone(device: Device, server: Server, strangers: list[str]) -> Entry:
    phone = Phone.of(device)
    entry = Entry(device, "unknown", server=server)
    if server.fault:
        entry.problems.append(server.fault)
    else:
        _look_at(phone, entry, strangers)
        _look_at_leases(phone, entry)
    _look_at_files(phone, entry)
    return entry


def _look_at(phone: Phone, entry: Entry, strangers: list[str]) -> None:
    """Fill in the state and the facts of a phone."""
    try:
        phone.check_online()
        entry.state = "online"
        entry.facts = read_facts(phone)
    except PhoneFault as fault:
        entry.problems.append(_without_name(str(fault), entry.device))
        if entry.state == "online":
            entry.state = "no answer"
            return
        with _problems_of(entry):
            state = phone.state()
            entry.state = STATES.get(state, state)
        if entry.state == "missing" and strangers:
            entry.problems.append(
                f"its adb server has {', '.join(strangers)}, which no device names; correct the serial"
            )
        return
    if entry.facts.soc:
        with _problems_of(entry):
            check_soc(phone, entry.device, entry.facts, Progress())
    if entry.facts.free_mb is not None and entry.facts.free_mb < LITTLE_MB:
        entry.problems.append(
            f"only {_free(entry.facts.free_mb)} free; delete files from it: a program of 1B parameters takes 1 to 2 GB"
        )


def _look_at_leases(phone: Phone, entry: Entry) -> None:
    if holder := leases.holder(phone):
        entry.used_by = holder
    elif found := leases.set_aside(phone):
        reason, seconds = found
        why = _without_name(reason, entry.device)
        entry.used_by = "set aside"
        entry.problems.append(
            f"set aside, runs prefer other phones of its SoC for {math.ceil(seconds)} s; it failed: {why}"
        )


def _look_at_files(phone: Phone, entry: Entry) -> None:
    """Look whether the files are there that a run would push and, on the phone, the Python that would run them."""
    device = entry.device
    by_upstream = device.runner == "qnn_llama_runner"
    if by_upstream:
        with _problems_of(entry):
            runner_files(device)
    if by_upstream or entry.facts:
        with _problems_of(entry):
            qnn_libraries(device, platform(entry.facts, device.runner) if entry.facts else ANDROID)
    if not by_upstream and entry.facts:
        with _problems_of(entry):
            if phone.shell(f"command -v {shlex.quote(device.python)}", SECONDS).code:
                raise HexportError(f"it has no {device.python}; install Python and executorch there, or set python")


@contextlib.contextmanager
def _problems_of(entry: Entry) -> Iterator[None]:
    """Take an error of the block for a problem of the device."""
    try:
        yield
    except HexportError as error:
        entry.problems.append(_without_name(str(error), entry.device))


def _without_name(line: str, device: Device) -> str:
    """Return what is wrong with a device, from a line that begins with its name."""
    return line.removeprefix(f"device {device.name}: ").removeprefix(f"phone {device.name} ({device.serial}): ")


def _free(megabytes: int | None) -> str:
    return "" if megabytes is None else f"{megabytes / 1024:.1f} GB"
