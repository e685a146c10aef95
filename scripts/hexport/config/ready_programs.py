"""This module finds programs that are not built here: those in the folder that a model's `pre_gen_pte` names."""

from pathlib import Path

from hexport.errors import HexportError
from hexport.targets.modes import MODES


def ready_program(folder: str, mode: str) -> str:
    """Return the file of a mode's program in a folder of ready ones. Raises HexportError where it is missing."""
    file = Path(folder) / MODES[mode].program_name
    if not file.parent.is_dir():
        raise HexportError(f"{folder}: {'expected a folder, got a file' if file.parent.exists() else 'no such folder'}")
    if not file.is_file():
        there = ", ".join(sorted(path.name for path in file.parent.glob("*.pte"))) or "no .pte"
        raise HexportError(f"{file}: no such file, and mode {mode} needs it; in {folder}: {there}")
    return str(file)
