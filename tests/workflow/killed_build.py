"""A build of a tiny model from a fetch to a run, which is killed at a moment and taken up again."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import fake_hub
import https_server
from fake_hub import Hub, Repository, commit_of
from workflow_tree import SNAKEMAKE, copy_workflow, environment, write_checkpoint

CONFIG = """\
socs: [SM8650]
models:
  a:
    checkpoint: hf://org/tiny
    calibration: {prompts: [Once upon a time, "The sea, the sea"]}
    max_seq_len: 32
    num_sharding: 2
    prompts: [Once]
    seq_len: 8
"""
DEVICES = "devices:\n  emulator: {kind: emulator, soc: SM8650}\n"
# Rules whose jobs run: a kill falls into each of them. Their scripts have their names.
RULES = (
    *("fetch", "convert_checkpoint", "encode_calibration", "calibrate", "lower_templates", "compile_shard"),
    *("assemble_program", "run_program"),
)
HOWS = ("everything", "snakemake alone", "the job alone")
CHUNK, PAUSE = 16 << 10, 0.02  # bytes and seconds: a download of 400 kB takes half a second
COMMIT = commit_of("tiny")
TIMEOUT = 600  # seconds that a build may take


@contextlib.contextmanager
def slow_hub(folder: Path) -> Iterator[dict[str, str]]:
    """A Hub that sends the files of `folder` slowly; gives the variables that name it."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with fake_hub.serve(Hub({"org/tiny": Repository({COMMIT: files}, {"main": COMMIT})}), _SlowHandler) as hub:
        authority = https_server.certificate_file(folder.parent)
        kept = {name: value for name, value in environment().items() if not name.startswith("HF_")}
        # A Snakemake that is killed leaves a folder in TMPDIR.
        own = {"HF_HOME": folder.parent / "home", "TMPDIR": folder.parent / "tmp"}
        own["TMPDIR"].mkdir()
        yield {
            **kept,
            **{name: str(path) for name, path in own.items()},
            "HF_ENDPOINT": hub.endpoint,
            "SSL_CERT_FILE": authority,
        }


class _SlowHandler(fake_hub.Handler):
    def send(self, content: bytes) -> None:
        for start in range(0, len(content), CHUNK):
            self.wfile.write(content[start : start + CHUNK])
            time.sleep(PAUSE)


@dataclass(frozen=True)
class Job:
    """A job that runs: the process of its script, and when it was first seen."""

    rule: str
    pid: int
    since: float


@dataclass
class Build:
    """The workflow in a folder of its own, and the Hub that it fetches from."""

    path: Path
    variables: dict[str, str]
    sessions: list[int] = field(default_factory=list)  # of every Snakemake that was started

    @classmethod
    def new(cls, path: Path, variables: dict[str, str]) -> "Build":
        path.mkdir()
        copy_workflow(path)
        (path / "config.yaml").write_text(CONFIG)
        (path / "devices.yaml").write_text(DEVICES)
        return cls(path, variables)

    def again(self, path: Path) -> "Build":
        """The same code and config in another folder, with nothing built."""
        built = shutil.ignore_patterns("artifacts", ".snakemake", "__pycache__", "snakemake.log")
        shutil.copytree(self.path, path, ignore=built)
        return Build(path, self.variables)

    @contextlib.contextmanager
    def started(self, *targets: str) -> Iterator[subprocess.Popen]:
        """Snakemake in the background, in a session of its own."""
        with open(self.path / "snakemake.log", "ab") as log:
            process = subprocess.Popen(
                [*SNAKEMAKE, *targets],
                cwd=self.path,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.sessions.append(process.pid)
        try:
            yield process
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Kill whatever is left, such as jobs whose Snakemake was killed."""
        for session in self.sessions:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)

    def finish(self, *targets: str) -> dict[str, float]:
        """Run to the end; seconds of each rule's job, as far as it was seen."""
        seconds: dict[str, float] = {}
        with self.started(*targets) as snakemake:
            end, jobs = time.monotonic() + TIMEOUT, {}
            while snakemake.poll() is None:
                assert time.monotonic() < end, f"snakemake did not end in {TIMEOUT} s: {self.said()}"
                running = {job.pid: job for job in self.jobs()}
                jobs = running | jobs
                seconds |= {job.rule: time.monotonic() - job.since for pid, job in jobs.items() if pid in running}
                time.sleep(0.01)
            assert snakemake.returncode == 0, self.said()
        return seconds

    def said(self) -> str:
        return (self.path / "snakemake.log").read_text(errors="replace")[-3000:]

    def unlock(self) -> None:
        done = subprocess.run(
            [*SNAKEMAKE, "--unlock"], cwd=self.path, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def jobs(self) -> list[Job]:
        """The scripts of this folder that run now."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and (rule := self._rule(folder)):
                found.append(Job(rule, int(folder.name), time.monotonic()))
        return found

    def _rule(self, process: Path) -> str | None:
        """The rule whose script a process runs: its words begin with python and the script's path."""
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if len(words) > 1 and "python" in words[0]:
                folder, _, name = words[1].rpartition("/")
                if folder == f"{self.path}/scripts":
                    return next((rule for rule in RULES if name == f"{rule}.py"), None)
        return None

    def kill(self, rule: str, moment: float, how: str, *targets: str) -> str | None:
        """Run until a job of the rule has run for `moment` seconds, and kill; the rule whose job the kill fell into.

        None where no job was running then: this one had ended early. After `snakemake alone`, the job ends by itself,
        maybe beside the Snakemake that takes the build up again.
        """
        with self.started(*targets) as snakemake:
            if (job := self._wait_for(rule, snakemake)) is None:
                return None
            time.sleep(moment)
            running = self.jobs()
            hit = next((other for other in running if other.pid == job.pid), running[0] if running else None)
            if hit and how == "the job alone":
                for process in (hit.pid, *_descendants(hit.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            elif how == "snakemake alone":
                snakemake.kill()
            else:
                os.killpg(snakemake.pid, signal.SIGKILL)
            snakemake.wait(TIMEOUT)
        if how != "the job alone" or hit is None:
            self.unlock()
        return hit.rule if hit else None

    def _wait_for(self, rule: str, snakemake: subprocess.Popen) -> Job | None:
        end = time.monotonic() + TIMEOUT
        while snakemake.poll() is None:
            assert time.monotonic() < end, f"no job of {rule} in {TIMEOUT} s: {self.said()}"
            if found := [job for job in self.jobs() if job.rule == rule]:
                return found[0]
            time.sleep(0.005)
        return None

    def artifacts(self) -> dict[str, str]:
        """Digest of each artifact: of all that is always the same, so not of times, logs and manifests."""
        folder = self.path / "artifacts"
        files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
        kept = [file for file in files if not file.name.endswith((".log", ".manifest.json"))]
        return {str(file.relative_to(folder)): _digest(file) for file in sorted(kept)}

    def parts(self) -> list[str]:
        """Unfinished files that are left, downloads to be continued aside."""
        return [str(file.relative_to(self.path)) for file in self.path.rglob("artifacts/**/.*.part")]


def _digest(file: Path) -> str:
    if file.name == "result.json":
        return json.dumps([answer["text"] for answer in json.loads(file.read_text())["prompts"]])
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text().split()]
    return [process for child in found for process in (child, *_descendants(child))]


def write_seed(folder: Path) -> None:
    """The files that the Hub has."""
    write_checkpoint(folder)


def moments(random: Random, rules: list[str], seconds: dict[str, float]) -> list[tuple[str, float, str]]:
    """A moment in a job of each of the rules, and what is killed then."""
    return [(rule, random.uniform(0, seconds[rule]), random.choice(HOWS)) for rule in rules]
