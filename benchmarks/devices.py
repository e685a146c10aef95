"""What the cache of a phone saves a second run, and what more phones save a batch of runs, on loopback phones.

    python benchmarks/devices.py

A loopback phone runs programs on this host, behind a real adb server. A run of the batch takes half a second of its
phone, so the batch measures how well the pool shares the phones, not how fast they are.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from adbutils import adb_path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "devices"))
from loopback import AdbServer, LoopbackDevice

from hexport.devices.link.adb import Phone
from hexport.devices.phones.job import job_folder
from hexport.devices.phones.pool import on_a_phone
from hexport.progress import Progress

WORKERS = 3
HEADER = f"{'':<28}{'first':>10}{'second':>10}{'ratio':>10}"


@click.command(help=__doc__)
@click.option("--mb", default=100, help="size of the program that is run twice")
@click.option("--jobs", default=24, help="runs of the batch")
def main(mb: int, jobs: int) -> None:
    with tempfile.TemporaryDirectory() as scratch, phones_of_this_host(Path(scratch), WORKERS) as phones:
        program = Path(scratch, "program.pte")
        program.write_bytes(os.urandom(mb * 1_000_000))
        print_two_runs(program, *next(iter(phones.items())))
        one, all_of_them = (batch_s(jobs, list(phones)[:count]) for count in (1, WORKERS))
    print(f"{jobs} runs, {WORKERS} at a time: {one:.1f} s on 1 phone, {all_of_them:.1f} s on {WORKERS}")
    print(f"ratio {one / all_of_them:.2f}x")


@contextlib.contextmanager
def phones_of_this_host(folder: Path, count: int) -> Iterator[dict[Phone, LoopbackDevice]]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(AdbServer(folder / "adb", adb=adb_path()))
        phones = {}
        for i in range(count):
            device = stack.enter_context(LoopbackDevice(folder / f"phone{i}"))
            phones[Phone(f"phone{i}", device.address, "127.0.0.1", server.port)] = device
        for phone in phones:
            phone.check_online(15)
        yield phones


def print_two_runs(program: Path, phone: Phone, device: LoopbackDevice) -> None:
    costs = []
    for _ in range(2):
        start = time.perf_counter()
        with job_folder(phone, {"program.pte": program}, 8.0, Progress()) as folder:
            folder.write("prompt", b"Why is the sky blue?")
            folder.run(["sh", "-c", "cat prompt > answer"], {}, 60)
            folder.read("answer")
        moved = sum(event.get("size", 0) for kind in ("push", "pull") for event in device.events(kind))
        costs.append((moved / 1e6, time.perf_counter() - start))
    (first_mb, first_s), (both_mb, second_s) = costs
    second_mb = both_mb - first_mb
    print(HEADER)
    print(f"{'MB moved':<28}{first_mb:>10.3f}{second_mb:>10.6f}{second_mb / first_mb:>10.1e}")
    print(f"{'seconds':<28}{first_s:>10.2f}{second_s:>10.2f}{second_s / first_s:>10.2f}")


def batch_s(jobs: int, phones: list[Phone]) -> float:
    start = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(WORKERS) as workers:
        workers.starmap(run_once, [(phones,)] * jobs, chunksize=1)
    return time.perf_counter() - start


def run_once(phones: list[Phone]) -> None:
    def work(phone: Phone) -> None:
        with job_folder(phone, {}, 8.0, progress) as folder:
            folder.run(["sleep", "0.5"], {}, 60)

    with open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
        progress = Progress()
        on_a_phone(phones, work, progress)


if __name__ == "__main__":
    main()
