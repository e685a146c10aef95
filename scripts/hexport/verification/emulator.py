"""This module finds what a program computes of a text, on the emulator: read in blocks, in other blocks, and token by
token.

What masks hide is never the same twice: free slots of the cache hold noise, and blocks are padded with other tokens. So
a row that sees what it must not see differs from the row of the other reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hexport.child import answer
from hexport.programs.abi import KV_METHOD, PREFILL_METHOD
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import Layout, layouts_of
from hexport.progress import Progress
from hexport.runtime.graph import Graph
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.prefill import read_rows
from hexport.verification.figures import sqnr_db

TOKENS, QUICK_TOKENS = 256, 32  # tokens of the text that are read in blocks
SINGLE_TOKENS, QUICK_SINGLE_TOKENS = 32, 12  # the same where each token takes a call
STEPS, QUICK_STEPS = 8, 4  # calls of the decode graph: for the text's last tokens, and for the answer
SMALL_BYTES = 5e6  # a program whose calls take milliseconds
TIMEOUT_S = 3600.0
ADVICE = "the program may be damaged: copy it again, or export it again; the log has its last words"


@dataclass(frozen=True)
class Amounts:
    """The amounts say how many tokens are read. tokens: how many are read in blocks. behind: up to which one the decode
    graph reads them again. decoded: how many of them it reads. answered: how many tokens it answers with then.
    """

    tokens: int
    behind: int
    decoded: int
    answered: int


@dataclass(frozen=True)
class Reading:
    """A reading holds what a program computed of a text.

    - logits: float32 (tokens, vocab), read in blocks.
    - first_block: how many of these rows saw no cache.
    - again_db: SQNR in dB of the rows of the other reading against these; None where there is no other way to read.
    - decoded: float32 (decoded + answered - 1, vocab), the rows of the decode graph, answer included.
    - answer: the ids of the greedy answer.
    - k, v: codes of those of each layer, (n_kv, tokens, head_dim).
    - qnn: the build id of QNN.
    """

    logits: np.ndarray
    first_block: int
    again_db: float | None
    decoded: np.ndarray
    answer: list[int]
    k: list[np.ndarray]
    v: list[np.ndarray]
    qnn: str


def amounts_of(program: ProgramFacts, available: int, quick: bool) -> Amounts:
    """Return as many tokens as a few minutes on two cores allow, the context has room for, and the text has."""
    layouts = layouts_of(program)
    decode, prefill = layouts[KV_METHOD], layouts.get(PREFILL_METHOD)
    steps = QUICK_STEPS if quick else STEPS
    single = prefill is None and program.n_bytes > SMALL_BYTES
    most = (QUICK_SINGLE_TOKENS if quick else SINGLE_TOKENS) if single else QUICK_TOKENS if quick else TOKENS
    tokens = min(most, available, decode.context_len - 1)
    answered = min(steps, max(decode.cache_len // 4, 1))
    behind = max(min(tokens, decode.cache_len + 2 - answered), 1)
    return Amounts(tokens, behind, min(steps, behind - 1) or 1, answered)


def blocks_of(layout: Layout | Graph, n_tokens: int, first: int) -> list[int]:
    """Return the lengths of calls that read so many tokens, or those that can be reached: a call begins within the
    slots.
    """
    cache_len, lengths, done = layout.context_len - layout.ar_len, [min(first, n_tokens)], min(first, n_tokens)
    while done < n_tokens and done <= cache_len:
        lengths.append(min(layout.ar_len, n_tokens - done))
        done += lengths[-1]
    return lengths


def read_program(progress: Progress, path: Path, tokens: list[int], amounts: Amounts, folder: Path) -> dict:
    """Read the text, and return what is JSON of the reading. For another process, arrays go into `folder`.

    Raises HexportError for a program that does not load.
    """
    from hexport.qnn_sdk import qnn_build_id

    build = qnn_build_id()
    from hexport.runtime.program import Program

    with progress.stage("load"):
        program = Program(path)
        decode = program.graph(KV_METHOD)
        prefill = program.graph(PREFILL_METHOD) if PREFILL_METHOD in program.methods else decode
    random = np.random.default_rng(0)
    text, cache = tokens[: amounts.tokens], KVCache(prefill, decode)
    # At least two calls, where the graph takes a cache.
    first = prefill.ar_len if prefill.ar_len < len(text) or not prefill.cache_len else max(len(text) // 2, 1)
    blocks = blocks_of(prefill, len(text), first)
    unit = "token" if prefill.ar_len == 1 else "block"
    logits = _read(prefill, cache, text, progress.steps(blocks, "read", len(blocks), unit), random)
    n_layers, n = prefill.n_layers, len(logits)
    for i, (k, v) in enumerate(zip(cache.arrays[:n_layers], cache.arrays[n_layers:], strict=True)):
        np.save(folder / f"k_{i}.npy", k[0, :, :, :n].transpose(0, 2, 1))
        np.save(folder / f"v_{i}.npy", v[0, :, :n])
    np.save(folder / "logits.npy", logits)
    again = None
    if prefill.ar_len > 1:
        others = blocks_of(prefill, n, first if not prefill.cache_len else max(blocks[0] * 2 // 3, 1))[:2]
        steps = progress.steps(others, "read in other blocks", len(others), unit)
        rows = _read(prefill, KVCache(prefill, decode), text, steps, random)
        again = sqnr_db(logits[: len(rows)], rows)
    cache.keep(min(amounts.behind - amounts.decoded, cache.n_past))
    decoded, answer = _decode(decode, cache, tokens[cache.n_past : amounts.behind], amounts.answered, random, progress)
    np.save(folder / "decoded.npy", decoded)
    return {"qnn": build, "first_block": blocks[0], "again_db": again, "answer": answer}


def read_apart(path: Path, tokens: list[int], amounts: Amounts, folder: Path, progress: Progress) -> Reading:
    """Run `read_program` in a process of its own and return the reading. Raises HexportError as it does, and where it
    crashes or hangs.
    """
    what = f"{path}: the emulator"
    told = answer(
        read_program, path, tokens, amounts, folder, progress=progress, what=what, advice=ADVICE, timeout=TIMEOUT_S
    )
    return reading_of(folder, told)


def reading_of(folder: Path, told: dict) -> Reading:
    """Return the reading that `read_program` has told and left in the folder, which may be removed then."""
    layers = range(len(list(folder.glob("v_*.npy"))))
    k, v = ([np.load(folder / f"{name}_{i}.npy") for i in layers] for name in "kv")
    return Reading(np.load(folder / "logits.npy"), decoded=np.load(folder / "decoded.npy"), k=k, v=v, **told)


def _read(
    graph: Graph, cache: KVCache, tokens: list[int], lengths: Iterable[int], random: np.random.Generator
) -> np.ndarray:
    rows = [_call(graph, cache, tokens[cache.n_past : cache.n_past + length], random) for length in lengths]
    return np.concatenate(rows)


def _decode(
    graph: Graph, cache: KVCache, tokens: list[int], n_answer: int, random: np.random.Generator, progress: Progress
) -> tuple[np.ndarray, list[int]]:
    """Return the logits behind tokens of the text, one a call, and behind those of the greedy answer but the last; and
    the answer.
    """
    rows, answer = [], []
    for i in progress.steps(range(len(tokens) + n_answer - 1), "decode", len(tokens) + n_answer - 1, "token"):
        rows.append(_call(graph, cache, [tokens[i] if i < len(tokens) else answer[-1]], random)[0])
        if i >= len(tokens) - 1:
            answer.append(int(rows[-1].argmax()))
    return np.stack(rows), answer


def _call(graph: Graph, cache: KVCache, block: list[int], random: np.random.Generator) -> np.ndarray:
    """Return the logits of the block, with noise in the free slots and in the padding."""
    cache.arranged_for(graph)
    k_and_v, n = cache.arrays, cache.n_past
    for array in (*(k[..., n:] for k in k_and_v[: graph.n_layers]), *(v[:, :, n:] for v in k_and_v[graph.n_layers :])):
        array[...] = _noise(array, random)
    return read_rows(graph, cache, block, slice(0, len(block)), int(random.integers(graph.vocab_size)))


def _noise(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if array.dtype.kind == "f":
        return random.standard_normal(array.shape)
    return random.integers(0, np.iinfo(array.dtype).max, array.shape, array.dtype, endpoint=True)
