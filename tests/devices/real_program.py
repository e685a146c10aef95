"""Tiny real programs for the emulator: what the runners of phones are tested with."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from lowerings import Lowerings
from tiny_model import RECIPE, SAMPLES, save_llama, save_tokenizer

from hexport.devices.emulator import Run
from hexport.runtime.lookahead import Size

CONTEXT = 24
BLOCK = 8  # AR length of the prefill graphs, and of lookahead's decode graph
LOOKAHEAD = {"ngram": 3, "window": 2, "gcap": 1}  # 6 tokens a call


@dataclass(frozen=True)
class RealPrograms:
    """`hybrid` has an AR-1 graph, so that it runs in mode kv too. `tokenizer` is …/tokenizer.json."""

    hybrid: Path
    lookahead: Path
    tokenizer: Path

    def of(self, mode: str) -> Path:
        return self.lookahead if mode == "lookahead" else self.hybrid

    @classmethod
    def in_folder(cls, folder: Path) -> "RealPrograms":
        return cls(folder / "hybrid.pte", folder / "lookahead.pte", folder / "tokenizer" / "tokenizer.json")


def build(folder: Path) -> None:
    """Of a random llama of one layer, with a token per byte, in this process."""
    from hexport.decoder.weights import Checkpoint
    from hexport.lowering.constant_methods import SpecialTokens
    from hexport.progress import Progress
    from hexport.quantization.calibration import calibrate
    from hexport.quantization.recipe_checks import recipe_from

    save_llama(folder / "checkpoint", num_hidden_layers=1)
    save_tokenizer(folder / "tokenizer")
    checkpoint, recipe = Checkpoint(folder / "checkpoint"), recipe_from(RECIPE, "16a8w")
    attrs = calibrate(checkpoint, [[256, *text.encode()] for text in SAMPLES], recipe, Progress())
    programs, lowerings = RealPrograms.in_folder(folder), Lowerings(SpecialTokens(bos_id=256, eos_id=257))
    for path, decode in ((programs.hybrid, 1), (programs.lookahead, BLOCK)):
        lowerings.lowered(path, checkpoint, attrs, recipe, prefill=BLOCK, decode=decode, context_len=CONTEXT)


@functools.cache
def kept_programs(keep: Callable) -> RealPrograms:
    logging.disable(logging.WARNING)  # torch.export logs thousands of debug lines, which pytest would collect
    try:
        return RealPrograms.in_folder(keep("real", build))
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def real_programs(keep, qnn_sdk) -> RealPrograms:
    """Never changed, and the same however many modules import this fixture."""
    return kept_programs(keep)


def run_of(mode: str) -> Run:
    """Greedy, up to the end of the context."""
    return Run(mode, Size(**LOOKAHEAD) if mode == "lookahead" else None, "", 0.0, CONTEXT)
