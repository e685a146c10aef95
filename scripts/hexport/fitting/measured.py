"""This module measures the perplexity of a fitted recipe on tokens that the search of its weights has not seen.

The fake-quantised decoder reads them. Ranges of activations hardly depend on how weights are coded, so they are
calibrated once, with the float weights and on no more tokens than it takes.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hexport.code_digest import code_digest
from hexport.decoder.kept_names import identity, kept_name
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.qdq import QuantisedScores
from hexport.file_hashes import sha256
from hexport.progress import Progress
from hexport.provenance import write_json
from hexport.quantization.calibration import calibrate
from hexport.quantization.quant_attrs import QuantAttrs, load_quant_attrs, save_quant_attrs
from hexport.quantization.recipe import Recipe
from hexport.quantization.weight_algorithms import coded_weights

JUDGED = 1 / 4  # this part of the calibration tokens judges codes
FEWEST_TOKENS = 64
CALIBRATED = 2048  # activations are calibrated on about so many tokens


def split(samples: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Split calibration samples: the first three quarters find codes, and the last one judges them.

    A sample that lies in both is cut in two. Raises HexportError for too few tokens.
    """
    n_tokens = sum(map(len, samples))
    if n_tokens < FEWEST_TOKENS:
        raise HexportError(
            f"calibration: {n_tokens} tokens are too few to fit a recipe to; give some thousand by calibration.text"
        )
    left, coding, judging = n_tokens - int(n_tokens * JUDGED), [], []
    for sample in samples:
        if before := sample[: max(left, 0)]:
            coding.append(before)
        if behind := sample[max(left, 0) :]:
            judging.append(behind)
        left -= len(sample)
    return coding, [sample for sample in judging if len(sample) > 1]  # a single token scores nothing


def _first(samples: list[list[int]], n_tokens: int) -> Iterator[list[int]]:
    """Yield samples up to the one with which there are so many tokens."""
    for sample in samples:
        if n_tokens > 0:
            yield sample
        n_tokens -= len(sample)


@dataclass(frozen=True)
class Laboratory:
    """A laboratory measures recipes that differ from `base` in their weights. `base_name` is the name of that recipe.

    `checkpoint` is the checkpoint's folder. What was measured is in `folder`, and is not measured again.
    """

    model: str
    base_name: str
    base: Recipe
    checkpoint: Path
    coding: list[list[int]]
    judging: list[list[int]]
    folder: Path
    progress: Progress

    def perplexity_ratio(self, recipe: Recipe) -> float:
        """Return the perplexity per token on the judging samples, in units of the float model's.

        Raises HexportError where perplexities are not finite.
        """
        checkpoint = Checkpoint(self.checkpoint, recipe.basis)
        file = self.folder / "recipes" / f"{self._name(checkpoint, repr(recipe))}.json"
        if not file.is_file():
            write_json(file, {"perplexity_ratio": self._measure(checkpoint, recipe)})
        return json.loads(file.read_bytes())["perplexity_ratio"]

    def _measure(self, checkpoint: Checkpoint, recipe: Recipe) -> float:
        weights = coded_weights(checkpoint, self.coding, recipe, self.progress, self.folder / "weights")
        attrs = replace(self._attrs(checkpoint, recipe), weights=weights)
        scores = QuantisedScores(checkpoint, attrs, recipe, max(map(len, self.judging)), self.progress)
        pairs = zip(scores(self.judging), scores.of_float(self.judging), strict=True)
        lost = [float((exact.log_probs - found.log_probs).sum()) for found, exact in pairs]
        ratio = math.exp(sum(lost) / sum(len(sample) - 1 for sample in self.judging))
        if not math.isfinite(ratio):
            raise HexportError("fit: perplexities are not finite; check the weights for NaN")
        return ratio

    def _attrs(self, checkpoint: Checkpoint, recipe: Recipe) -> QuantAttrs:
        file = self.folder / f"quant_attrs.{self._name(checkpoint, repr(self.base))}.json"
        if not file.is_file():
            samples = [*_first(self.coding, CALIBRATED)]
            attrs = calibrate(checkpoint, samples, recipe, self.progress)
            facts = {"model": self.model, "recipe": self.base_name, "checkpoint": sha256(checkpoint.path)}
            save_quant_attrs(file, attrs, **facts, calibration={"tokens": sum(map(len, samples))})
        return load_quant_attrs(file)

    def _name(self, checkpoint: Checkpoint, recipe: str) -> str:
        code = code_digest("hexport/fitting/measured.py")
        return kept_name([*identity(checkpoint), self.base_name, self.coding, self.judging, code, recipe])
