"""`snakemake run` with phones in devices.yaml: real adb, loopback phones that run Python, a tiny real program."""

import importlib.resources
import json
import os
import shutil
import sys
from collections.abc import Iterator

import pytest
from loopback import AdbServer, LoopbackDevice
from workflow_tree import Tree

PHONES = ("s24", "s24b")
ENTRY = "  {name}: {{kind: adb, soc: SM8650, serial: '${{{variable}}}', runner: hexport, python: {python}}}\n"
RUN = "run_on_phone a/16a8w/32/SM8650/{device}/kv"
RESULT = "artifacts/a/16a8w/ctx32/SM8650/{device}/kv/result.json"
EMULATED = "artifacts/a/16a8w/ctx32/SM8650-emulator/emulator/kv/result.json"


@pytest.fixture(scope="module")
def phones(tmp_path_factory) -> Iterator[list[LoopbackDevice]]:
    """Two of one SoC, on an adb server of their own; they see this process' Python and nothing else of this host."""
    server = AdbServer(tmp_path_factory.mktemp("adb"), adb=str(importlib.resources.files("adbutils.binaries") / "adb"))
    exposed = [word for prefix in {sys.prefix, sys.base_prefix} - {"/usr"} for word in ("--expose", prefix)]
    one, other = (LoopbackDevice(tmp_path_factory.mktemp(name), args=exposed) for name in PHONES)
    with pytest.MonkeyPatch.context() as environment, server, one, other:
        environment.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        for name, phone in zip(PHONES, (one, other), strict=True):
            environment.setenv(f"SERIAL_{name}", phone.address)
        yield [one, other]


@pytest.fixture(scope="module")
def exported(built, phones, tmp_path_factory):
    """The tree of `built`, whose only device is a phone, with the program for its SoC."""
    path = tmp_path_factory.mktemp("phones") / "tree"
    shutil.copytree(built.path, path, symlinks=True)
    (path / "devices.yaml").write_text("devices:\n" + entry("s24"))
    tree = Tree(path)
    tree.snakemake("artifacts/a/16a8w/ctx32/SM8650/kv_llama_qnn.pte")
    return tree


@pytest.fixture
def tree(exported, tmp_path):
    shutil.copytree(exported.path, tmp_path / "tree", symlinks=True)
    return Tree(tmp_path / "tree")


def entry(name: str) -> str:
    return ENTRY.format(name=name, variable=f"SERIAL_{name}", python=sys.executable)


def read(tree, path: str) -> dict:
    return json.loads((tree.path / path).read_text())


def pushed(phone: LoopbackDevice) -> int:
    return sum(event["size"] for event in phone.events("push"))


def left_over(phone: LoopbackDevice) -> list[str]:
    return os.listdir(phone.host_path("/data/local/tmp/hexport/runs"))


def test_a_phone_in_devices_yaml_is_all_that_a_run_needs(tree, phones):
    phone = phones[0]
    assert tree.run("run") == {RUN.format(device="s24")}
    result, emulated = read(tree, RESULT.format(device="s24")), read(tree, EMULATED)
    (answer,), (expected,) = result["prompts"], emulated["prompts"]
    assert (answer["token_ids"], answer["text"]) == (expected["token_ids"], expected["text"])
    assert {key: result[key] for key in ("target", "device", "mode", "runner")} == {
        "target": "SM8650",
        "device": "s24",
        "mode": "kv",
        "runner": "hexport",
    }
    assert left_over(phone) == []
    assert (tree.path / RESULT.format(device="s24")).with_name("run.log").stat().st_size > 0
    assert tree.stale("run") == set()

    tree.edit("devices.yaml", "SERIAL_s24}", "SERIAL_s24b}")
    assert tree.stale("run") == set()
    tree.edit("devices.yaml", "SERIAL_s24b}", "SERIAL_s24}")
    first = pushed(phone)
    tree.edit("config.yaml", "prompts: [Once]", "prompts: [Once, e]\n    repeats: 2")
    assert tree.run("run") == {RUN.format(device="s24")}
    assert pushed(phone) - first < first / 100
    again = read(tree, RESULT.format(device="s24"))
    assert len(again["prompts"]) == len(again["repeats"]["prompts"]) == 2
    assert again["repeats"]["same_answers"]


def test_phones_of_one_soc_share_the_run_and_one_that_is_gone_is_set_aside(tree, phones):
    (tree.path / "devices.yaml").write_text("devices:\n" + entry("s24") + entry("s24b"))
    phones[0].control({"op": "mode", "mode": "unauthorized"})
    try:
        assert tree.run("run") == {RUN.format(device="phones")}
    finally:
        phones[0].control({"op": "mode", "mode": "device"})
    result = read(tree, RESULT.format(device="phones"))
    assert result["device"] == "s24b"
    assert result["prompts"][0]["token_ids"] == read(tree, EMULATED)["prompts"][0]["token_ids"]
    assert not (tree.path / RESULT.format(device="s24")).exists()


def test_another_soc_than_the_phones_is_one_line_and_nothing_is_pushed(tree, phones, tmp_path, monkeypatch):
    with LoopbackDevice(tmp_path / "phone", args=["--soc", "SM8550"]) as phone:
        monkeypatch.setenv("SERIAL_s24", phone.address)
        done = tree.snakemake("run", check=False)
        assert done.returncode != 0
        assert f"error: phone s24 ({phone.address}): devices.yaml says SM8650, and the phone says SM8550" in done.stderr
        assert "Traceback" not in done.stderr
        assert pushed(phone) == 0
    assert not list((tree.path / "artifacts/a/16a8w/ctx32/SM8650/s24").rglob("*.json"))


def test_a_program_scores_on_a_phone_as_on_the_emulator(tree, phones):
    """A ready one, so that nothing else is evaluated. The phone loads it once."""
    (tree.path / "ready").mkdir()
    shutil.copy(tree.path / "artifacts/a/16a8w/ctx32/SM8650/kv_llama_qnn.pte", tree.path / "ready")
    (tree.path / "tale.txt").write_text("Once upon a time there was a phone that could count to three. " * 2)
    ready = "  ready: {pre_gen_pte: ready, tokenizer: checkpoints/a, evaluation: {tasks: [tale]}}\n"
    (tree.path / "config.yaml").write_text(f"tasks: {{tale: {{text: tale.txt}}}}\nmodels:\n{ready}")
    (tree.path / "devices.yaml").write_text(f"devices:\n  emulator: {{kind: emulator, soc: SM8650}}\n{entry('s24')}")
    open(phones[0].journal, "w").close()
    folder = "artifacts/ready/16a8w/ctx1024/SM8650"
    places = [f"{folder}{place}/kv/evaluation.json" for place in ("/s24", "-emulator/emulator")]
    tree.snakemake(*places)
    on_phone, emulated = (read(tree, place) for place in places)
    assert (on_phone["device"], on_phone["runner"], on_phone["phase"]) == ("s24", "hexport", "device")
    for key in ("tasks", "tokens", "context_len", "graph"):
        assert on_phone[key] == emulated[key]
    assert (
        len([event for event in phones[0].events("shell") if "hexport.devices.runners.phone_side" in event["cmd"]]) == 1
    )
