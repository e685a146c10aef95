"""This module decodes with lookahead (arXiv 2402.02057): several tokens a call, and exactly those of greedy decoding.

One call of the decode graph does three things at once, in rows that do not see each other:

- front: reads the last token of the text, which gives the next one, as in plain decoding.
- window: guesses ahead. Its N - 1 levels x W columns hold guesses of the tokens to come. Column j, read downwards, is a
  trajectory of N - 1 tokens at consecutive positions, and what the model says at its end makes it an n-gram of N.
- candidates: up to G n-grams that begin with the last token, from a pool of those that the window has found and those
  that the text itself contains. As far as the model says, token by token, what a candidate says, these tokens are the
  ones that plain decoding would have found, and the candidate saves their calls.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hexport.errors import HexportError
from hexport.runtime.graph import Graph, GraphSizes
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.masks import tree_masks
from hexport.runtime.prefill import PADDING
from hexport.runtime.reading import common_prefix
from hexport.targets.modes import lookahead_tokens

Ids = tuple[int, ...]
OnToken = Callable[[int], None]  # called with each new token


@dataclass(frozen=True)
class Size:
    """The size of a lookahead step has three numbers: N, the length of n-grams; W, the columns of the window; G, the
    n-grams that are verified in a call.
    """

    ngram: int
    window: int
    gcap: int

    @property
    def rows(self) -> int:
        """Return the rows of a call. The front's last token is the first one of the window, so it counts once."""
        return lookahead_tokens(self.ngram, self.window, self.gcap)


@dataclass(frozen=True)
class StepRows:
    """The layout of a call tells what stands in which row. Rows without a part are padding, and no other row sees them.

    - n_front: how many rows the front has; they are the first ones.
    - window: rows (N - 1, W), of which [0, 0] is the front's last; (0, W) where there is no room for a window.
    - candidates: rows (up to G, N - 1), the first token of each follows the front's last.
    - offsets: int32 (AR,), positions relative to that of the front's last token.
    - sees: bool (AR, AR), whether a row sees another one: itself, its parent, the parent's parent, …
    - asked: the rows whose logits are wanted.
    """

    n_front: int
    window: np.ndarray
    candidates: np.ndarray
    offsets: np.ndarray
    sees: np.ndarray
    asked: np.ndarray

    @property
    def last(self) -> int:
        """Return the row of the text's last token."""
        return self.n_front - 1


@functools.lru_cache(maxsize=4)
def step_rows(size: Size, ar_len: int, n_front: int) -> StepRows:
    """Lay out front, window and candidates, one behind the other, as far as there is room. A longer front costs the
    window.
    """
    levels, last = size.ngram - 1, n_front - 1
    with_window = n_front - 1 + size.rows <= ar_len
    window = last + np.arange(levels * size.window if with_window else 0).reshape(-1, size.window)
    start = n_front + max(window.size - 1, 0)
    n_candidates = min(size.gcap, (ar_len - start) // levels)
    candidates = start + np.arange(n_candidates * levels).reshape(-1, levels)

    parents = np.full(ar_len, -1)
    parents[1:n_front] = np.arange(last)
    parents[window[:1, 1:]] = window[:1, :-1]
    parents[window[1:]] = window[:-1]
    parents[candidates[:, :1]] = last
    parents[candidates[:, 1:]] = candidates[:, :-1]

    offsets = np.zeros(ar_len, np.int32)
    offsets[:n_front] = np.arange(-last, 1)
    offsets[window] = np.add.outer(np.arange(len(window)), np.arange(size.window))
    offsets[candidates] = np.arange(1, size.ngram)

    sees = np.eye(ar_len, dtype=bool)
    for row, parent in enumerate(parents):  # a parent stands before its children
        if parent >= 0:
            sees[row] |= sees[parent]
    asked = np.unique(np.concatenate([[last], *window[-1:], candidates.ravel()]).astype(int))
    return StepRows(n_front, window, candidates, offsets, sees, asked)


class NgramPool:
    """A pool tells what may follow a token: for each first token, the latest G continuations of N - 1 tokens."""

    def __init__(self, size: Size):
        self.size = size
        self._after: dict[int, dict[Ids, None]] = {}  # ordered, the latest at the end

    def add(self, ngram: list[int]) -> None:
        """Add an n-gram of N tokens as the latest one of its first token; the oldest one of more than G is dropped."""
        continuations = self._after.setdefault(ngram[0], {})
        continuation = tuple(ngram[1:])
        continuations.pop(continuation, None)
        continuations[continuation] = None
        if len(continuations) > self.size.gcap:
            del continuations[next(iter(continuations))]

    def add_text(self, tokens: list[int], n_new: int) -> None:
        """Add the n-grams that end in the last n_new tokens."""
        for end in range(max(len(tokens) - n_new + 1, self.size.ngram), len(tokens) + 1):
            self.add(tokens[end - self.size.ngram : end])

    def after(self, token: int) -> list[Ids]:
        """Return the continuations of a token, the latest first."""
        return list(self._after.get(token, {}))[::-1]


class Guesses:
    """The guesses are the window's tokens (N - 1, W), and the pool of what the window and the text have given."""

    def __init__(self, size: Size, tokens: list[int]):
        self.pool = NgramPool(size)
        self.pool.add_text(tokens, len(tokens))
        self.window = np.random.default_rng(0).choice(tokens, (size.ngram - 1, size.window))

    def begin_at(self, token: int) -> None:
        """Let the first column begin with the text's last token."""
        self.window[0, 0] = token

    def advance(self, ends: np.ndarray) -> None:
        """Move the window on by one token: each column loses its first token and gets what the model said at its end,
        `ends` (W,).
        """
        trajectories = np.vstack([self.window, ends])
        for ngram in trajectories.T.tolist():
            self.pool.add(ngram)
        self.window = trajectories[1:]


def decode_ahead(
    graph: Graph, cache: KVCache, tokens: list[int], end: int, stop_ids: frozenset[int], size: Size, on_token: OnToken
) -> int:
    """Append the tokens of greedy decoding until there are `end`, at most CL + 1, or the last is a stop token. Return
    the number of calls.

    The cache holds tokens of the text from its start, and is left so. Tokens for which it has no slot left are read
    again in each call, as part of the front.
    """
    cache.keep(min(cache.n_past, graph.cache_len))
    guesses, steps = Guesses(size, tokens), 0
    while len(tokens) < end and tokens[-1] not in stop_ids:
        layout = step_rows(size, graph.ar_len, len(tokens) - cache.n_past)
        guesses.begin_at(tokens[-1])
        candidates = guesses.pool.after(tokens[-1])[: len(layout.candidates)]
        said, new = _call(graph, cache, tokens, layout, guesses.window, candidates)
        found, rows = _longest_run(said, layout, candidates)
        found = up_to_stop(found[: end - len(tokens)], stop_ids)
        stored = [*range(layout.n_front), *rows[: len(found) - 1]]  # the last token that was found is yet to be read
        cache.append(new, stored[: graph.cache_len - cache.n_past])
        tokens += found
        if layout.window.size:
            guesses.advance(said[layout.window[-1]])
        guesses.pool.add_text(tokens, len(found))
        for token in found:
            on_token(token)
        steps += 1
    return steps


def _call(
    graph: Graph, cache: KVCache, tokens: list[int], layout: StepRows, window: np.ndarray, candidates: list[Ids]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Fill the rows and call the graph; return the token (AR,) that the model says behind each row that is asked, and
    the new k and v.

    No position is beyond the context: a row is at most as far behind the cache, CL - AR, as rows stand before it.
    """
    ids = np.full(graph.ar_len, PADDING, np.int32)
    ids[layout.window] = window[: len(layout.window)]
    ids[: layout.n_front] = tokens[cache.n_past :]
    for rows, candidate in zip(layout.candidates, candidates, strict=False):  # there may be fewer candidates
        ids[rows] = candidate
    positions = len(tokens) - 1 + layout.offsets
    masks = tree_masks(graph, cache.n_past, layout.sees, positions)
    logits, new = graph.call(ids[None], masks, positions[None], cache.arranged_for(graph), rows=layout.asked)
    said = np.full(graph.ar_len, PADDING)
    said[layout.asked] = logits.argmax(axis=1)
    return said, new


def _longest_run(said: np.ndarray, layout: StepRows, candidates: list[Ids]) -> tuple[list[int], list[int]]:
    """Return the most tokens that the model confirms, and the rows of the confirmed tokens of a candidate.

    The tokens are what the model says behind the text, then behind each token of a candidate, as long as that token is
    the one that the model said itself.
    """
    run, rows_of_run = [int(said[layout.last])], []
    for rows, candidate in zip(layout.candidates.tolist(), candidates, strict=False):
        said_here = said[[layout.last, *rows]].tolist()
        n = common_prefix(candidate, said_here)
        if n > len(rows_of_run):
            run, rows_of_run = said_here[: n + 1], rows[:n]
    return run, rows_of_run


def up_to_stop(tokens: list[int], stop_ids: frozenset[int]) -> list[int]:
    """Return the tokens up to the first stop token."""
    ends = (i for i, token in enumerate(tokens, 1) if token in stop_ids)
    return tokens[: next(ends, len(tokens))]


def check_lookahead(graph: GraphSizes, size: Size, temperature: float, where: str) -> None:
    """Raise HexportError where the program's decode graph is too small for the size, or answers are not greedy."""
    if temperature > 0:
        raise HexportError(
            f"{where}: temperature {temperature:g}: lookahead decoding accepts a guess where it is the most likely "
            "token, so it gives the answer of temperature 0 only; set temperature: 0, or use mode kv or hybrid"
        )
    if size.rows > graph.ar_len:
        fit = "" if graph.ar_len == 1 else "set them to fit the program, or "
        raise HexportError(
            f"{where}: ngram {size.ngram}, window {size.window} and gcap {size.gcap} take {size.rows} tokens a call, "
            f"(window + gcap) * (ngram - 1), the program's decode graph has AR length {graph.ar_len}; "
            f"{fit}export it for mode lookahead with them"
        )
