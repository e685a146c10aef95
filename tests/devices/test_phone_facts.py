"""What a phone says of itself, asked over a real adb server."""

import io
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from loopback_phones import phone_of

from hexport.config.devices import Device
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones.facts import Facts, check_soc, platform, read_facts, same_soc, temperature
from hexport.errors import HexportError
from hexport.progress import Progress

SM8650 = Device(name="s24", kind="adb", soc="SM8650", serial="R5C")


@pytest.fixture
def phone_with(new_device, adb_server):
    """A loopback phone with arguments of its own, online."""

    def online(*args):
        device = new_device(*args)
        phone = phone_of(device, adb_server)
        phone.check_online(15)
        return device, phone

    return online


def kernel_files(folder: Path, files: dict[str, str]) -> Path:
    """Stands in for a part of /sys."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return folder


def program(device, name: str, script: str) -> None:
    path = Path(device.host_path(f"/system/bin/{name}"))
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def facts(soc=None, android="15", machine="aarch64"):
    return Facts(soc=soc, android=android, machine=machine, free_mb=1000)


def test_the_facts_of_a_phone_take_one_command(phone_with):
    device, phone = phone_with("--soc", "SM8750-AC", "--disk-size", "64m")
    assert read_facts(phone) == Facts(soc="SM8750-AC", android="15", machine=os.uname().machine, free_mb=64)
    assert len(device.events("shell")) == 1


def test_a_board_without_android_is_known_by_its_kernel(phone_with, tmp_path):
    devices = kernel_files(tmp_path / "devices", {"soc0/machine": "QCS9100"})
    device, phone = phone_with("--bind", f"{devices}:/sys/devices")
    Path(device.host_path("/system/bin/getprop")).unlink()
    found = read_facts(phone)
    assert (found.soc, found.android) == ("QCS9100", None)
    assert found.free_mb == pytest.approx(shutil.disk_usage(device.root).free / 2**20, rel=0.2)


def test_a_code_name_is_no_name_of_a_soc(phone_with, tmp_path):
    devices = kernel_files(tmp_path / "devices", {"soc0/machine": "PINEAPPLE"})
    _, phone = phone_with("--soc", "", "--bind", f"{devices}:/sys/devices")
    assert read_facts(phone).soc is None


def test_a_shell_that_says_nothing_is_a_fault_of_the_phone(phone_with):
    device, phone = phone_with()
    program(device, "uname", "echo cannot fork >&2")
    with pytest.raises(PhoneFault, match=r"s24 \(127.*cannot fork.*restart the phone") as raised:
        read_facts(phone)
    assert not isinstance(raised.value, PassingFault)


@pytest.mark.parametrize("read", ["SM8650", "sm8650", "SM8650-AC", "SM8650P", "SM8650_AB"])
def test_variants_of_a_soc_pass(phone, read):
    check_soc(phone, SM8650, facts(read), Progress())


@pytest.mark.parametrize(
    ("read", "correction"), [("SM8550-AC", "set soc: SM8550 for it"), ("MT6989", "set its serial")]
)
def test_another_soc_is_refused(phone, read, correction):
    with pytest.raises(PhoneFault, match=f"says SM8650, and the phone says {read}; {correction}") as raised:
        check_soc(phone, SM8650, facts(read), Progress())
    assert not isinstance(raised.value, PassingFault)


def test_a_longer_number_is_another_soc():
    assert not same_soc("SM86501", "SM8650")


def test_a_phone_that_does_not_say_its_soc_is_taken_for_the_configured_one(phone):
    with redirect_stderr(io.StringIO()) as said:
        check_soc(phone, SM8650, facts(None), Progress())
    assert "taken for SM8650" in said.getvalue()


def test_libraries_are_those_of_what_runs_them():
    assert platform(facts(), "qnn_llama_runner") == "aarch64-android"
    assert platform(facts(android=None), "qnn_llama_runner") == "aarch64-oe-linux-gcc11.2"
    assert platform(facts(android=None), "hexport") == "aarch64-oe-linux-gcc11.2"
    assert platform(facts(machine="x86_64"), "hexport") == "x86_64-linux-clang"
    with pytest.raises(HexportError, match="riscv64"):
        platform(facts(machine="riscv64"), "hexport")


def test_temperatures_are_read_in_all_units_and_implausible_ones_left_out(phone_with, tmp_path):
    zones = {
        "battery": "31000",
        "cpu-0-0": "54321",
        "nsphvx-0": "61",
        "soc": "87",
        "pm8550-vbat": "3900",
        "off": "-40000",
    }
    files = {
        f"thermal/thermal_zone{i}/{name}": text
        for i, (kind, degrees) in enumerate(zones.items())
        for name, text in (("type", kind), ("temp", degrees))
    }
    device, phone = phone_with("--bind", f"{kernel_files(tmp_path / 'class', files)}:/sys/class")
    assert temperature(phone) == {"hottest": 61.0}
    program(device, "dumpsys", "printf 'Current Battery Service state:\\n  level: 87\\n  temperature: 285\\n'")
    assert temperature(phone) == {"battery": 28.5, "hottest": 61.0}


def test_no_temperature_is_none(phone_with, tmp_path):
    device, phone = phone_with("--bind", f"{kernel_files(tmp_path / 'class', {'x': ''})}:/sys/class")
    assert temperature(phone) is None
    device.fault(op="shell", action="drop")
    assert temperature(phone) is None
