"""This module asks a phone for what it says of itself: SoC, Android version, machine, free space, temperature."""

import re
from dataclasses import dataclass

from hexport.config.devices import Device
from hexport.devices.link.adb import Phone, free_bytes
from hexport.devices.link.faults import PhoneFault, said_by_phone
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.targets.socs import HTP_ARCH

SECONDS = 10.0
ANDROID = "aarch64-android"
LINUX = "aarch64-oe-linux-gcc11.2"
HOST = "x86_64-linux-clang"
# Where the folder of the phone is not there yet, it will come to be on the file system of its parent.
FACTS = """
echo "soc=$(getprop ro.soc.model 2>/dev/null)"
echo "soc0=$(cat /sys/devices/soc0/machine 2>/dev/null)"
echo "android=$(getprop ro.build.version.release 2>/dev/null)"
echo "machine=$(uname -m)"
for folder in /data/local/tmp /data /; do
  if [ -d $folder ]; then echo "free=$(df -k $folder | tail -n 1)"; break; fi
done
"""
TEMPERATURES = """
for zone in /sys/class/thermal/thermal_zone*; do
  kind= degrees=
  read -r kind <$zone/type
  read -r degrees <$zone/temp
  echo "zone=$degrees $kind"
done 2>/dev/null
echo "battery=$(timeout 5 dumpsys battery 2>/dev/null | grep '^ *temperature:')"
"""
# Thermal zones of Qualcomm's drivers that give a charge, a voltage or a current.
NO_TEMPERATURE = re.compile(r"^socd?$|vbat|ibat|vph|bcl")
PLAUSIBLE = (0.0, 130.0)


@dataclass(frozen=True)
class Facts:
    """The facts are what a phone says of itself. `soc` is the name of a part, such as SM8650-AC, `machine` what `uname
    -m` says, `free_mb` is in MiB. None stands for what the phone does not say.
    """

    soc: str | None
    android: str | None
    machine: str
    free_mb: int | None


def read_facts(phone: Phone) -> Facts:
    """Ask a phone for its facts, in one command. Raises PhoneFault where it gives no answer."""
    output = phone.shell(FACTS, SECONDS)
    said = _tagged(output.stdout)
    machine = said.get("machine", [""])[0]
    if not machine:
        complaint = said_by_phone(output.stderr.decode(errors="replace").strip().partition("\n")[0])
        raise PhoneFault(
            f"{phone}: its shell does not answer{': ' + complaint if complaint else ''}; restart the phone"
        )
    free = free_bytes(said.get("free", [""])[0])
    return Facts(
        soc=_part_name(*said.get("soc", []), *said.get("soc0", [])),
        android=said.get("android", [""])[0] or None,
        machine=machine,
        free_mb=None if free is None else free >> 20,
    )


def check_soc(phone: Phone, device: Device, facts: Facts, progress: Progress) -> None:
    """Raise PhoneFault where the phone has another SoC than devices.yaml says. A phone that does not tell its SoC
    passes.
    """
    if facts.soc is None:
        progress.say(f"{phone} does not say which SoC it has; taken for {device.soc}, as in devices.yaml")
    elif not same_soc(facts.soc, device.soc):
        known = next((soc for soc in HTP_ARCH if same_soc(facts.soc, soc)), None)
        correction = f"set soc: {known} for it, or " if known else ""
        raise PhoneFault(
            f"{phone}: devices.yaml says {device.soc}, and the phone says {facts.soc}; "
            f"{correction}set its serial to that of a phone with {device.soc}"
        )


def same_soc(read: str, configured: str) -> bool:
    """Tell whether the name `read` that a phone gives is the SoC `configured` or a variant of it, such as SM8650-AC or
    SM8550P.
    """
    return re.match(re.escape(configured) + r"(?!\d)", read, re.IGNORECASE) is not None


def platform(facts: Facts, runner: str) -> str:
    """Return the folder of a QNN SDK's `lib` that holds the libraries for a phone. Raises HexportError where there is
    none.
    """
    if runner == "qnn_llama_runner":
        return ANDROID if facts.android else LINUX
    platforms = {"x86_64": HOST, "aarch64": LINUX, "arm64": LINUX}
    if facts.machine not in platforms:
        raise HexportError(f"runner hexport: there is no QNN for a device with {facts.machine}; use one with aarch64")
    return platforms[facts.machine]


def temperature(phone: Phone) -> dict[str, float] | None:
    """Return the temperatures in degrees C: `battery`, and `hottest` of the thermal zones.

    Those that the phone does not let us read are missing; None stands for none at all. The call takes at most 10 s and
    raises nothing: no run is worth less for want of a temperature.
    """
    try:
        said = _tagged(phone.shell(TEMPERATURES, SECONDS).stdout)
    except PhoneFault:
        return None
    found = {}
    if tenths := re.search(r"-?[0-9]{1,9}", said.get("battery", [""])[0]):
        found["battery"] = int(tenths[0]) / 10
    if zones := [degrees for zone in said.get("zone", []) if (degrees := _zone_degrees(zone)) is not None]:
        found["hottest"] = max(zones)
    return found or None


def _tagged(output: bytes) -> dict[str, list[str]]:
    """Return the values of lines `tag=value` by tag; they are fit for a message."""
    said: dict[str, list[str]] = {}
    for line in output.decode(errors="replace").splitlines():
        tag, equals, value = line.partition("=")
        if equals:
            said.setdefault(tag, []).append(said_by_phone(value))
    return said


def _part_name(*names: str) -> str | None:
    """Return the first name that is one of a part. Older phones tell only its code name, such as PINEAPPLE."""
    return next((name for name in names if re.fullmatch(r"[A-Za-z]{2,4}[0-9]{4}\S*", name)), None)


def _zone_degrees(line: str) -> float | None:
    """Return the degrees C of a line `temp type`, in millidegrees or degrees; None for what cannot be a temperature."""
    value, _, kind = line.partition(" ")
    if NO_TEMPERATURE.search(kind) or not re.fullmatch(r"-?[0-9]{1,9}", value):
        return None
    degrees = int(value) / (1000 if abs(int(value)) >= 1000 else 1)
    return degrees if PLAUSIBLE[0] < degrees < PLAUSIBLE[1] else None
