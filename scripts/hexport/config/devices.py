"""This module reads devices.yaml: what programs run on, and which devices share the runs of a SoC."""

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from hexport.config.documents import MAX_DIGITS, read_yaml
from hexport.config.schema import cut, dotted, nearest, raise_all, schema, schema_errors
from hexport.errors import HexportError
from hexport.targets.socs import HTP_ARCH
from hexport.targets.target import Target

EMULATOR_TIMEOUT = 86400.0  # seconds; a large model takes minutes a token there
# This stands for a device's name in a path, and means whichever phone of the SoC is free.
PHONES = "phones"
PORT = re.compile(r"[0-9]{1,5}")
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device is an entry of devices.yaml. `timeout` is in seconds, and `cache_gb` in GB of files on the phone."""

    name: str
    kind: str
    soc: str
    serial: str | None = None
    adb_server: dict | None = None
    build_path: str | None = None
    qnn_sdk: str | None = None
    runner: str = "qnn_llama_runner"
    python: str = "python3"
    timeout: float = 1800
    cache_gb: float = 8

    @property
    def target(self) -> str:
        """Return the name of the target that a program must be lowered for to run here."""
        return Target(self.soc, emulator=self.kind == "emulator").name

    @property
    def server(self) -> tuple[str, int]:
        """Return host and port of the adb server that a phone hangs on, by default those that adb itself takes.

        Raises HexportError where the environment names no port.
        """
        host = os.environ.get("ANDROID_ADB_SERVER_HOST", "127.0.0.1")
        port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
        if not (PORT.fullmatch(port) and 0 < int(port) < 65536):
            raise HexportError(
                f"ANDROID_ADB_SERVER_PORT={cut(port)}: no port; unset it, or set it to a number up to 65535"
            )
        given = self.adb_server or {}
        return given.get("host", host), given.get("port", int(port))

    @property
    def lacks(self) -> str | None:
        """Return what programs cannot run without on this phone, and what to do about it; None where nothing is
        missing."""
        if self.kind == "emulator" or self.runner == "hexport":
            return None
        if self.build_path is None:
            return "build_path is missing: name the folder of executorch built for Android, or set runner: hexport"
        if self.qnn_sdk is None and not os.environ.get("QNN_SDK_ROOT"):
            return "qnn_sdk is missing: name a QNN SDK, or set QNN_SDK_ROOT"
        return None


def read_devices(path: str) -> dict[str, Device]:
    """Return the devices of a devices.yaml by name, with the values of environment variables in place. Those may be
    secret, and are never in an error.

    Raises HexportError with a line for each fault.
    """
    faults: list[str] = []
    written = read_yaml(Path(path))
    document = _expand(written, schema("devices"), [], faults)
    raise_all(path, faults)
    raise_all(path, schema_errors(document, schema("devices"), written))
    devices = {name: _device(name, entry) for name, entry in document["devices"].items()}
    raise_all(path, [*_unknown_socs(document["devices"], written["devices"]), *_faults(devices)])
    return devices


def _device(name: str, entry: dict) -> Device:
    default = {"timeout": EMULATOR_TIMEOUT} if entry["kind"] == "emulator" else {}
    return Device(name=name, **default | entry)


def _unknown_socs(devices: dict[str, dict], written: dict[str, dict]) -> Iterator[str]:
    for name, device in devices.items():
        if device["soc"] not in HTP_ARCH:
            yield f"devices.{name}.soc: unknown SoC {cut(repr(written[name]['soc']))}{nearest(device['soc'], HTP_ARCH)}"


def _faults(devices: dict[str, Device]) -> Iterator[str]:
    """Yield a line for each fault that a schema cannot see."""
    serials: dict[tuple, str] = {}
    for name, device in devices.items():
        if name == PHONES:
            yield f"devices.{name}: the name is taken by the phones of a SoC together; choose another"
        if device.kind == "emulator":
            for field in fields(Device):
                own = field.default is not MISSING and field.name != "timeout"
                if own and getattr(device, field.name) != field.default:
                    yield f"devices.{name}.{field.name}: is for devices of kind adb, and this one is an emulator"
        for key in ("timeout", "cache_gb"):
            if not math.isfinite(getattr(device, key)):
                yield f"devices.{name}.{key}: expected a finite number, got {getattr(device, key)}"
        if device.kind == "adb" and device.serial is None:
            yield f"devices.{name}.serial: missing; `adb devices` lists serial numbers"
        elif device.kind == "adb":
            same = serials.setdefault((*device.server, device.serial), name)
            if same != name:
                yield f"devices.{name}.serial: is that of device {same} already"


def stations(devices: Iterable[Device]) -> list[tuple[str, str]]:
    """Return where programs run without being asked for by name, as (name, target): every emulator, every phone that is
    the only one of its SoC, and the phones of a SoC together, which share its runs. Phones that lack something are not
    among them."""
    found: dict[str, list[str]] = {}
    for device in devices:
        if not device.lacks:
            key = f"{device.target}/{device.name}" if device.kind == "emulator" else device.target
            found.setdefault(key, []).append(device.name)
    return [(names[0] if len(names) == 1 else PHONES, key.split("/")[0]) for key, names in found.items()]


def devices_at(devices: dict[str, Device], name: str, target: str) -> list[Device]:
    """Return the devices that may run the target's programs under this name.

    Raises HexportError where there is none, or where one cannot.
    """
    if name == PHONES:
        phones = [device for device in devices.values() if device.kind == "adb" and device.target == target]
        if not phones:
            raise HexportError(f"there is no phone with {target} in devices.yaml")
        found = [device for device in phones if not device.lacks] or phones
    elif name in devices:
        found = [devices[name]]
    else:
        raise HexportError(f"there is no device {name!r}; known: {', '.join(devices)}")
    for device in found:
        if device.target != target:
            raise HexportError(f"device {device.name} runs programs for {device.target}, not for {target}")
        if device.lacks:
            raise HexportError(f"device {device.name}: {device.lacks}")
    return found


def device_slots(devices: Iterable[Device]) -> dict[str, int]:
    """Return how often each slot can be taken at one time, by its name. Runs take one of each device, and one of the
    phones of its SoC."""
    slots: Counter[str] = Counter()
    for device in devices:
        slots.update(taken_slots(device.name, device.target) if device.kind == "adb" else [f"device_{device.name}"])
    return slots


def taken_slots(name: str, target: str) -> tuple[str, str]:
    """Return the names of the slots that a run of the target's programs under this name takes, as far as there are such
    slots."""
    return f"device_{name}", f"phones_{target}"


def _expand(value: object, rule: dict, path: list, faults: list[str]) -> object:
    """Return the value with ${NAME} replaced from the environment; in a place of numbers, the text becomes one."""
    if isinstance(value, dict):
        known, other = rule.get("properties", {}), rule.get("additionalProperties") or {}
        return {key: _expand(item, known.get(key, other), [*path, key], faults) for key, item in value.items()}
    if not isinstance(value, str) or not VARIABLE.search(value):
        return value
    for name in VARIABLE.findall(value):
        if name not in os.environ:
            faults.append(f"{dotted(path)}: ${{{name}}}: the environment has no {name}; set it")
    text = VARIABLE.sub(lambda match: os.environ.get(match[1], ""), value)
    return _number(text) if rule.get("type") in ("integer", "number") else text


def _number(text: str) -> int | float | str:
    """Return the number that a text spells, else the text, which the schema refuses."""
    for kind in (int, float) if len(text) <= MAX_DIGITS else ():
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
