"""This module holds the job of a script: what its artifacts follow from, and how far it is."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import verified, write_manifest


class ScriptJob:
    """A job has the file of its script, its settings, the SHA-256 of what it reads (`inputs`), and its progress."""

    def __init__(self, script: str, settings: dict, log: Path | None):
        self.script, self.settings, self.progress = script, settings, Progress(log)
        self.inputs: dict[str, str] = {}

    def reads(self, files: Mapping[str, Path | None]) -> None:
        """Take files as the job's inputs, by names; None stands for one that it does not have. Raises HexportError as
        `verified` does."""
        self.inputs |= verified(files)

    @contextlib.contextmanager
    def made_once(self, *artifacts: Path, cached: bool = True) -> Iterator[bool]:
        """Yield whether the artifacts are there already, as `made_once.made_once` does; else the block makes them. What
        libraries print in it goes to the log."""
        work = self.script, self.inputs, self.settings, self.progress
        with made_once(artifacts, *work, cached=cached) as there, self.progress.library_output_in_log():
            yield there

    def write_manifest(self, *artifacts: Path, **facts: object) -> None:
        """Write the manifest of each artifact; `facts` are as `provenance.write_manifest` takes them."""
        stages = self.progress.stages
        write_manifest(*artifacts, script=self.script, inputs=self.inputs, params=self.settings, stages=stages, **facts)


def files_of_model(checkpoint: Path) -> dict[str, Path]:
    """Return the files of a canonical checkpoint as inputs; checkpoint: …/model.safetensors."""
    return {"model.safetensors": checkpoint, "config.json": checkpoint.with_name("config.json")}


def files_of_tokenizer(tokenizer: Path) -> dict[str, Path]:
    """Return the files of a tokenizer as inputs; tokenizer: …/tokenizer.json."""
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer.with_name("tokenizer_config.json")}
