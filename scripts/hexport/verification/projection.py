"""This module tells whether a program's error goes in the direction of a mistake.

With p the logits of the program, f those of the float decoder and h those of one that makes the mistake, all less their
rows' means, c = <p - f, h - f> / |h - f|², over rows weighted by 1 / (|p - f|² + |h - f|²). Where the fake-quantised
decoder is known, its logits q take the place of the first f, and the noise of weights goes. c is near 0 where the
program does not make the mistake, and near 1 where it does. Noise of quantisation has no direction of its own, so it
hardly changes c: c tells a mistake that is too small for a threshold on the noise.

What lies in the direction of a row of f is left out of both differences: whatever goes wrong loses some of f, and so
does every mistake, which would make them alike.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from hexport.verification.figures import less_row_means

CERTAIN = 0.2  # the standard error of c above which nothing is said
DEVIATIONS = 2.5  # the most standard errors that c may be from 1
# The least size of a mistake against the program's error. Below, what is systematic in that passes for the mistake.
FAINTEST_DB = -25.0


@dataclass
class Projection:
    """A projection accumulates rows. along: <p - q, h - f>, extent: |h - f|², error: |p - q|², of what is left of each
    row.
    """

    along: list[float] = field(default_factory=list)
    extent: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)

    def add(self, program: np.ndarray, quantised: np.ndarray, exact: np.ndarray, mistaken: np.ndarray) -> None:
        """Add rows (rows, vocab) of p, q, f and h; f stands in the place of q where that is not known."""
        reference = less_row_means(exact)
        error = _beside(reference, less_row_means(program) - less_row_means(quantised))
        direction = _beside(reference, less_row_means(mistaken) - reference)
        self.along += np.einsum("ij,ij->i", error, direction).tolist()
        self.extent += np.square(direction).sum(axis=1).tolist()
        self.error += np.square(error).sum(axis=1).tolist()

    @property
    def _weights(self) -> list[float]:
        """Return the weights of rows, by how little error they have: noise grows with the past that a row sees, and
        differs tenfold.

        A row in which the mistake does much more than noise counts as one, as it may be clipped there.
        """
        least = 1e-3 * sum(self.error) / max(len(self.error), 1)
        rows = zip(self.error, self.extent, strict=True)
        return [1 / (error + extent + least) if error + extent else 1.0 for error, extent in rows]

    @property
    def share(self) -> float:
        """Return c; 0 where the mistake changes nothing."""
        extent = _dot(self._weights, self.extent)
        return _dot(self._weights, self.along) / extent if extent else 0.0

    @property
    def deviation(self) -> float:
        """Return the standard error of c, from how rows differ in it; infinite where there is nothing to tell from."""
        n, extent, share = len(self.along), _dot(self._weights, self.extent), self.share
        if n < 2 or not extent:
            return math.inf
        rows = zip(self._weights, self.along, self.extent, strict=True)
        residual = sum((weight * (a - share * b)) ** 2 for weight, a, b in rows)
        return math.sqrt(residual * n / (n - 1)) / extent

    @property
    def level_db(self) -> float:
        """Return the size of the mistake against the program's error, in dB; infinite where there is no error."""
        extent, error = sum(self.extent), sum(self.error)
        if not error:
            return math.inf
        return 10 * math.log10(extent / error) if extent else -math.inf

    @property
    def explained(self) -> float:
        """Return the part of the error that the mistake accounts for: 1 - |p - h|² / |p - f|²."""
        error = sum(self.error)
        return (2 * sum(self.along) - sum(self.extent)) / error if error else 0.0

    @property
    def is_whole(self) -> bool:
        """Tell whether c is that of a mistake which is made, and not of noise that resembles it in part, as what an
        op's rounding does time and again may.

        Where the mistake is below the noise, c has to be 1 as far as can be told.
        """
        return self.level_db > 0 or abs(self.share - 1) < DEVIATIONS * self.deviation

    @property
    def is_seen(self) -> bool:
        """Tell whether c tells something. One mistake that is made may hide others, which are smaller."""
        return self.deviation < CERTAIN and self.level_db > FAINTEST_DB


def _dot(weights: list[float], values: list[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def _beside(reference: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return what of rows does not lie in the direction of the reference's rows."""
    squares = np.square(reference).sum(axis=1)
    shares = np.einsum("ij,ij->i", reference, rows) / np.where(squares, squares, 1.0)
    return rows - shares[:, None] * reference
