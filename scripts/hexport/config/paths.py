"""This module finds paths of config.yaml that Snakemake or the file system cannot take, before any job."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from hexport.config.settings import FILE_SOURCES, Config
from hexport.config.uris import is_remote
from hexport.errors import HexportError

MAX_NAME_BYTES = 255  # of one file or folder, on all usual file systems
MAX_PATH_BYTES = 3000  # Linux takes 4,095, with the working folder and the paths of artifacts
SPECIAL = re.compile(r"[{}<>]")  # Snakemake's wildcards and path variables
REPOSITORY = Path(__file__).resolve().parents[3]
# What lies in the repository and is no output.
PARTS = (
    *("Snakefile", "rules", "schemas", "scripts", "profiles", "docs", "tests", "benchmarks", "demo"),
    *(".git", ".ci", ".snakemake", ".venv"),
)
SYSTEM, MEMORY_DISK = ("/proc", "/sys", "/dev"), "/dev/shm"


def path_faults(config: Config) -> Iterator[str]:
    """Yield a line for each path of the config that no file can have, or that Snakemake would read as a pattern."""
    for where, path in _paths(config):
        if path is None or is_remote(path):
            continue
        if found := SPECIAL.search(path):
            yield f"{where}: {path}: {found[0]} in a path has a meaning of its own for Snakemake; rename it"
        elif any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in path.split("/")):
            yield f"{where}: has a name of more than {MAX_NAME_BYTES} bytes, which no file can have"
        elif len(os.fsencode(path)) > MAX_PATH_BYTES:
            yield f"{where}: has more than {MAX_PATH_BYTES} bytes; choose a shorter path"


def check_output_folder(name: str) -> None:
    """Check a folder for outputs; raise HexportError where they cannot be written into it, or would lie among other
    things."""
    if "://" in name:
        raise HexportError(f"{name}: outputs are written to this machine; name a folder")
    folder = Path(name).resolve()
    if Path.cwd().is_relative_to(folder) or REPOSITORY.is_relative_to(folder):
        raise HexportError(f"{name}: has more in it than outputs; name a folder for these alone")
    if folder.is_relative_to(REPOSITORY) and folder.relative_to(REPOSITORY).parts[0] in PARTS:
        raise HexportError(f"{name}: is part of hexport itself; name a folder for outputs alone")
    if any(folder.is_relative_to(system) for system in SYSTEM) and not folder.is_relative_to(MEMORY_DISK):
        raise HexportError(f"{name}: belongs to the system; name a folder of yours")
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise HexportError(f"{name}: {existing} is a file, and not a folder; name another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise HexportError(f"{name}: you may not write to {existing}; name another folder, or ask for its rights")


def _paths(config: Config) -> Iterator[tuple[str, str | None]]:
    yield "artifacts", config.artifacts
    yield "cache", config.cache
    yield "devices", config.devices_file
    for name, task in config.tasks.items():
        yield from ((f"tasks.{name}.{key}", task.get(key)) for key in ("text", "yaml"))
    for name, model in config.models.items():
        for key in ("checkpoint", "params", "tokenizer", "pre_gen_pte"):
            yield f"models.{name}.{key}", getattr(model, key)
        for key in FILE_SOURCES:
            yield f"models.{name}.calibration.{key}", getattr(model.calibration, key, None)
