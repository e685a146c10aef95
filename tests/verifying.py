"""Verification in the tests' own process, where what float decoders say of a text is computed once."""

from pathlib import Path
from unittest import mock

import numpy as np

KNOWN: dict[tuple, np.ndarray] = {}


def verified(path: Path, checkpoint, tokens: list[int], own=None, used=None):
    """The `Verification` of a program with a checkpoint and its tokenizer, and the one that it is used with."""
    from hexport.programs.inspection import inspect_program
    from hexport.progress import Progress
    from hexport.verification import verify
    from hexport.verification.emulator import read_program, reading_of
    from hexport.verification.sources import Reference

    compute = verify.mistaken_logits

    def once(checkpoint, context_len, text, mistake):
        key = checkpoint.path, context_len, tuple(text), mistake.looks
        if key not in KNOWN:
            KNOWN[key] = compute(checkpoint, context_len, text, mistake)
        return KNOWN[key]

    def read(path, tokens, amounts, folder):
        return reading_of(folder, read_program(Progress(), path, tokens, amounts, folder))

    with mock.patch.object(verify, "mistaken_logits", once):
        model = Reference(checkpoint, own, used or own)
        return verify.verify(path, model, tokens, True, verify.Host(inspect_program, read, Progress()))
