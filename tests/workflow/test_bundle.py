"""Bundles: what an app team gets of a program, and that it answers on a phone by the README's own command."""

import importlib.resources
import json
import shlex
import stat
import sys
import tarfile
from pathlib import Path

import documented
from loopback import AdbServer, LoopbackDevice
from loopback_phones import SCRIPTS, phone_of, upstream_runner

from hexport.devices.phones.job import job_folder
from hexport.file_hashes import sha256
from hexport.progress import Progress

NAME = "a-16a8w-ctx32-{target}-kv"
ARCHIVE = "artifacts/a/16a8w/ctx32/{target}/bundles/" + NAME + ".tar"
ANSWER = "artifacts/a/16a8w/ctx32/SM8650-emulator/emulator/kv/result.json"


def unpacked(tree, target: str, folder: Path) -> Path:
    with tarfile.open(tree.path / ARCHIVE.format(target=target)) as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME.format(target=target)


def test_a_bundle_of_each_program(tree, tmp_path):
    assert tree.run("bundle") == {f"write_bundle {model}/16a8w/32/SM8650/kv" for model in "ab"}
    folder = unpacked(tree, "SM8650", tmp_path)
    facts = json.loads((folder / "bundle.json").read_text())
    documented.check(facts, "Bundles")
    assert facts["files"] == {file.name: sha256(file) for file in folder.iterdir() if file.name != "bundle.json"}
    beside = (tree.path / ARCHIVE.format(target="SM8650")).with_suffix("")
    assert all((beside / file.name).read_bytes() == file.read_bytes() for file in folder.iterdir())
    readme = (folder / "README.md").read_text()
    assert facts["runner"]["command"] in readme
    assert "which hexport does not know" in readme  # the licence of a checkpoint of one's own
    assert tree.stale("bundle") == set()


def test_equal_programs_give_equal_archives(tree):
    archive = tree.path / ARCHIVE.format(target="SM8650")
    tree.run(str(archive.relative_to(tree.path)))
    first = archive.read_bytes()
    archive.unlink()
    tree.run(str(archive.relative_to(tree.path)))
    assert archive.read_bytes() == first


def test_the_readmes_command_answers_on_a_phone(tree, tmp_path):
    """A loopback phone, whose runner is a stand-in that runs programs on the emulator: so is the program."""
    tree.run(ARCHIVE.format(target="SM8650-emulator"))
    folder = unpacked(tree, "SM8650-emulator", tmp_path)
    line = next(line for line in (folder / "README.md").read_text().splitlines() if "./qnn_llama_runner" in line)
    command = [word for word in shlex.split(line) if "_LIBRARY_PATH=" not in word]
    runner = tmp_path / "qnn_llama_runner"
    runner.write_text(upstream_runner())
    runner.chmod(runner.stat().st_mode | stat.S_IXUSR)
    adb = str(importlib.resources.files("adbutils.binaries") / "adb")
    visible = sorted({Path(sys.prefix), Path(sys.base_prefix), SCRIPTS} - {Path("/usr")})
    device = LoopbackDevice(tmp_path / "phone", args=[word for path in visible for word in ("--expose", str(path))])
    with AdbServer(tmp_path / "adb", adb=adb) as server, device:
        files = {file.name: file for file in [*folder.iterdir(), runner]}
        with job_folder(phone_of(device, server), files, cache_gb=1, progress=Progress()) as job:
            done = job.run(command, {}, 120)
            assert done.code == 0, done.last_line()
            written = job.read("outputs.txt")
    (answer,) = json.loads((tree.path / ANSWER).read_text())["prompts"]
    assert written.decode(errors="replace") == "prompt.raw" + answer["text"]
