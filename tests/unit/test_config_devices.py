"""devices.yaml: variables of the environment, what a phone lacks, and which phones share the runs of a SoC."""

from pathlib import Path

import pytest

from hexport.build import evaluations, matrix
from hexport.build.artifacts import Place
from hexport.config.checks import check_config
from hexport.config.devices import device_slots, devices_at, read_devices, taken_slots
from hexport.config.settings import Config, parse_config
from hexport.errors import HexportError

RUNS = "out/m/16a8w/ctx64"
PHONE = "{kind: adb, soc: SM8650, runner: hexport, serial: "


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    Path("a.gguf").write_text("")


def config(devices: str, socs: str = "SM8650") -> Config:
    Path("devices.yaml").write_text(f"devices: {{{devices}}}")
    model = {
        "checkpoint": "a.gguf",
        "prompts": ["hi"],
        "max_seq_len": 64,
        "modes": ["kv"],
        "evaluation": {"tasks": ["t"]},
    }
    parsed = parse_config({"artifacts": "out", "socs": socs.split(), "models": {"m": model}}, "config.yaml")
    check_config(parsed, "config.yaml")
    return parsed


def test_one_phone_runs_under_its_name():
    old = PHONE.replace("SM8650", "SM8550")
    one = config(f"e: {{kind: emulator, soc: SM8650}}, s24: {PHONE}a}}, old: {old}b}}")
    assert matrix.runs(one) == [f"{RUNS}/SM8650-emulator/e/kv/result.json", f"{RUNS}/SM8650/s24/kv/result.json"]
    assert evaluations.evaluations(one)[2:] == [
        f"{RUNS}/SM8650-emulator/e/kv/evaluation.json",
        f"{RUNS}/SM8650/s24/kv/evaluation.json",
    ]
    assert list(matrix.left_out(one)) == []


def test_phones_of_one_soc_share_its_runs():
    several = config(f"a: {PHONE}a}}, b: {PHONE}b}}, c: {PHONE}c}}")
    assert matrix.runs(several) == [f"{RUNS}/SM8650/phones/kv/result.json"]
    assert [device.name for device in devices_at(several.devices, "phones", "SM8650")] == ["a", "b", "c"]
    # One that is named runs alone; all take one of the SoC's slots.
    assert [device.name for device in devices_at(several.devices, "b", "SM8650")] == ["b"]
    assert device_slots(several.devices.values()) == {"device_a": 1, "device_b": 1, "device_c": 1, "phones_SM8650": 3}
    assert taken_slots("b", "SM8650") == ("device_b", "phones_SM8650")


def test_a_phone_that_lacks_something_is_left_out_of_the_pool():
    lacking = config(f"a: {PHONE}a}}, b: {{kind: adb, soc: SM8650, serial: b, build_path: build}}")
    assert matrix.runs(lacking) == [f"{RUNS}/SM8650/a/kv/result.json"]
    assert list(matrix.left_out(lacking)) == [
        "device b is left out of run and evaluate: qnn_sdk is missing: name a QNN SDK, or set QNN_SDK_ROOT"
    ]
    assert [device.name for device in devices_at(lacking.devices, "phones", "SM8650")] == ["a"]
    with pytest.raises(HexportError, match=r"^device b: qnn_sdk is missing"):
        matrix.run_settings(lacking, Place("m", "16a8w", 64, "SM8650", "b", "kv"))


def test_qnn_sdk_root_serves_every_phone(monkeypatch):
    monkeypatch.setenv("QNN_SDK_ROOT", "sdk")
    assert matrix.runs(config("b: {kind: adb, soc: SM8650, serial: b, build_path: build}"))


def test_what_no_device_runs_is_one_line():
    one = config(f"e: {{kind: emulator, soc: SM8650}}, s24: {PHONE}a}}")
    for device, target, message in (
        ("s24", "SM8750", "device s24 runs programs for SM8650, not for SM8750"),
        ("e", "SM8650", "device e runs programs for SM8650-emulator, not for SM8650"),
        ("phones", "SM8750", "there is no phone with SM8750 in devices.yaml"),
        ("s25", "SM8650", "there is no device 's25'; known: e, s24"),
    ):
        with pytest.raises(HexportError) as error:
            devices_at(one.devices, device, target)
        assert str(error.value) == message


def test_values_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SERIAL", "12345678")
    monkeypatch.setenv("PORT", "5038")
    monkeypatch.setenv("SDKS", "/opt/sdk: {x}")
    text = "{kind: adb, soc: SM8650, serial: '${SERIAL}', adb_server: {port: '${PORT}'}, qnn_sdk: '${SDKS}/2.49 $HOME'}"
    Path("devices.yaml").write_text(f"devices: {{p: {text}}}")
    device = read_devices("devices.yaml")["p"]
    assert (device.serial, device.server) == ("12345678", ("127.0.0.1", 5038))
    assert device.qnn_sdk == "/opt/sdk: {x}/2.49 $HOME"


def test_a_missing_variable_is_one_line(monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    Path("devices.yaml").write_text("devices: {p: {kind: adb, soc: SM8650, serial: 'a${NO_SUCH}'}}")
    with pytest.raises(HexportError) as error:
        read_devices("devices.yaml")
    assert str(error.value) == "devices.yaml: devices.p.serial: ${NO_SUCH}: the environment has no NO_SUCH; set it"


@pytest.mark.parametrize("port", ["{a: [", "1e9", ""])
def test_a_variable_that_is_no_number_is_one_line(monkeypatch, port):
    monkeypatch.setenv("PORT", port)
    Path("devices.yaml").write_text("devices: {p: {kind: adb, soc: SM8650, serial: a, adb_server: {port: '${PORT}'}}}")
    with pytest.raises(HexportError) as error:
        read_devices("devices.yaml")
    assert str(error.value).startswith("devices.yaml: devices.p.adb_server.port: ")
    assert "\n" not in str(error.value)


def test_a_port_of_the_environment_that_is_none_is_one_line(monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "abc")
    with pytest.raises(HexportError, match=r"^ANDROID_ADB_SERVER_PORT=abc: no port; unset it"):
        config(f"a: {PHONE}a}}")


def test_the_server_is_the_one_that_adb_itself_takes(monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5099")
    Path("devices.yaml").write_text(
        f"devices: {{a: {PHONE}a}}, b: {PHONE}b, adb_server: {{host: lab.example, port: 5038}}}}}}"
    )
    devices = read_devices("devices.yaml")
    assert devices["a"].server == ("127.0.0.1", 5099)
    assert devices["b"].server == ("lab.example", 5038)


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        (
            "phones: {kind: emulator, soc: SM8650}",
            "phones: the name is taken by the phones of a SoC together; choose another",
        ),
        (
            "e: {kind: emulator, soc: SM8650, runner: hexport}",
            "e.runner: is for devices of kind adb, and this one is an emulator",
        ),
        (f"s: {PHONE}a, timeout: 0}}", "s.timeout: must be more than 0, got 0"),
        (f"s: {PHONE}a, cache_gb: .inf}}", "s.cache_gb: expected a finite number, got inf"),
        (
            "s: {kind: adb, soc: SM8650, serial: a, runner: hexprt}",
            "s.runner: unknown value 'hexprt'; did you mean hexport?",
        ),
    ],
)
def test_a_fault_is_one_line(device, fault):
    with pytest.raises(HexportError) as error:
        config(device)
    assert str(error.value) == f"devices.yaml: devices.{fault}"
