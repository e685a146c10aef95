"""This module keeps the hidden states behind a decoder's last layer.

Each evaluation of the same tokens, on whatever device and in whatever mode, then passes them through the layers once,
and computes logits alone. A file holds the states of one wave (`stream.py`), so an evaluation that was killed goes on.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from hexport.decoder.device import device
from hexport.decoder.kept_names import kept_name
from hexport.decoder.stream import Pack
from hexport.provenance import atomic_path, is_whole, manifest_path, write_manifest

MOST_BYTES = 4 << 30  # of the files that stay when an evaluation ends
OLD_S = 7 * 24 * 3600.0  # a file that nobody has read for as long goes


@dataclass(frozen=True)
class LastStates:
    """An instance keeps the states of one decoder in `folder`, where those of other decoders may lie too.

    decoder: a digest of all that they depend on, beside the tokens.
    """

    folder: Path
    decoder: str

    def found(self, wave: Sequence[Pack]) -> list[torch.Tensor] | None:
        """Return the states of each pack, float32 (1, n, hidden_size); None where they are not kept."""
        file = self._file(wave)
        if not is_whole(file):
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # what was read last is removed last
        hidden = safetensors.torch.load_file(file)["hidden"].to(device())
        return list(hidden.split([pack.tokens.shape[1] for pack in wave], dim=1))

    def keep(self, wave: Sequence[Pack], hidden: Sequence[torch.Tensor]) -> None:
        """Write the states of each pack of a wave. Raises OSError where the disk is full."""
        file = self._file(wave)
        with atomic_path(file) as temporary:
            safetensors.torch.save_file({"hidden": torch.cat([each.cpu() for each in hidden], dim=1)}, temporary)
        write_manifest(file, script=__file__, inputs={}, params={}, stages={})

    def _file(self, wave: Sequence[Pack]) -> Path:
        tokens = [[pack.tokens.tolist(), pack.lengths] for pack in wave]
        return self.folder / f"{kept_name([self.decoder, tokens])}.safetensors"


def prune(folder: Path) -> None:
    """Remove the files of a folder that are old, and those read the longest ago beyond MOST_BYTES."""
    states = {}
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another job has removed it
            states[file] = file.stat()
    total = 0
    for file, state in sorted(states.items(), key=lambda item: -item[1].st_mtime):
        total += state.st_size
        if total > MOST_BYTES or time.time() - state.st_mtime > OLD_S:
            file.unlink(missing_ok=True)
            manifest_path(file).unlink(missing_ok=True)
