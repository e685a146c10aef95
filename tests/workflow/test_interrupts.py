"""kill -9 in mid-job, then `snakemake` again: it finishes, and no partial file ever had the name of an artifact."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_build import HOWS, Build, slow_hub, write_seed
from workflow_tree import SNAKEMAKE, environment, write_checkpoint

from hexport.file_hashes import sha256

TARGET = "artifacts/big/checkpoint/model.safetensors"


@pytest.fixture
def big(tree):
    """The tree with a model whose canonical checkpoint takes a while to write."""
    write_checkpoint(tree.path / "checkpoints" / "big", vocabulary=65_536, hidden=1024, layers=1)
    tree.edit("config.yaml", "  a:\n", "  big:\n    checkpoint: checkpoints/big\n    prompts: [Hello]\n  a:\n")
    yield tree
    for folder in ("checkpoints", "artifacts"):  # 256 MB each, which pytest would keep
        shutil.rmtree(tree.path / folder / "big")


def test_a_killed_workflow(big):
    with watched(big.path / TARGET) as sizes, started(big, TARGET) as snakemake:
        writers(big.path, snakemake)
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait(60)
        assert not (big.path / TARGET).exists()
        assert "LockException" in big.snakemake(TARGET, check=False).stderr
        big.snakemake("--unlock")
        assert "convert_checkpoint big" in big.run(TARGET)
    assert len(sizes) == 1, "the artifact was there with more than one size"
    assert is_whole(big.path / TARGET)
    assert big.stale(TARGET) == set()


def test_kills_in_jobs_that_run(tmp_path):
    """A download, a conversion and an encoding, each in another way. `make chaos` does it 100 times, up to a run."""
    targets = ["artifacts/a/checkpoint/model.safetensors", "artifacts/a/calibration/tokens.json"]
    write_seed(tmp_path / "hub")
    with slow_hub(tmp_path / "hub") as variables:
        undisturbed = Build.new(tmp_path / "undisturbed", variables)
        seconds = undisturbed.finish(*targets)
        expected = undisturbed.artifacts()
        build = undisturbed.again(tmp_path / "build")
        for rule, how in zip(("fetch", "convert_checkpoint", "encode_calibration"), HOWS, strict=True):
            assert build.kill(rule, 0.05 * seconds[rule], how, *targets) == rule
            assert build.artifacts().items() <= expected.items()
        build.finish(*targets)
        build.end()
    assert build.artifacts() == expected
    assert build.parts() == []


@contextlib.contextmanager
def started(tree, *args: str) -> Iterator[subprocess.Popen]:
    """Snakemake in the background, in a process group of its own."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*SNAKEMAKE, *args], cwd=tree.path, env=environment(), start_new_session=True, **silent)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def writers(path: Path, snakemake: subprocess.Popen) -> list[int]:
    """Processes of the job, once it is in the middle of writing the artifact: its shell and the script."""
    folder = (path / TARGET).parent
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in folder.glob(".*.part")):
        assert time.monotonic() < deadline
        assert snakemake.poll() is None
        time.sleep(0.001)
    return descendants(snakemake.pid)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text().split()]
    return [process for child in found for process in (child, *descendants(child))]


@contextlib.contextmanager
def watched(path: Path) -> Iterator[set[int]]:
    """The sizes that the file had at any time."""
    sizes: set[int] = set()
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            with contextlib.suppress(FileNotFoundError):
                sizes.add(path.stat().st_size)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


def is_whole(path: Path) -> bool:
    manifest = path.with_name(path.name + ".manifest.json").read_text()
    return sha256(path) in manifest and not list(path.parent.glob(".*.part"))
