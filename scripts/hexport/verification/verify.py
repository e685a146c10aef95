"""This module verifies a program: what it says of itself, what it computes, and what its errors look like."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.stream import StreamedDecoder, whole_logits
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.layer_comparison import LayerComparison
from hexport.programs.abi import PREFILL_METHOD
from hexport.programs.capabilities import emulator_refusal
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import lengths_of
from hexport.progress import Progress
from hexport.verification.built import Built, built_program, built_twin, manifest_faults
from hexport.verification.contract import contract_faults
from hexport.verification.emulator import Amounts, Reading, amounts_of
from hexport.verification.figures import ROWS, agreement, sqnr_db
from hexport.verification.layer_mistakes import mistakes_in_layer
from hexport.verification.layers import RecordingDecoder, departure, keys_db, layers_db, located
from hexport.verification.mistakes import Mistake, MistakenDecoder, mistakes_of
from hexport.verification.projection import Projection
from hexport.verification.sources import Reference
from hexport.verification.verdict import Found, faults_of

MOST_IN_LAYERS = 40  # the most tries of mistakes in single layers


@dataclass(frozen=True)
class Host:
    """A host knows how it looks into a program, runs it on its emulator, and says how far it is."""

    inspect: Callable[[Path], ProgramFacts]
    read: Callable[[Path, list[int], Amounts, Path], Reading]
    progress: Progress


@dataclass
class Verification:
    """A verification holds what the checks of a program found.

    - faults: in a line each; a good program has none.
    - notes: what could not be checked, and where to look on.
    - found: its figures, where it was run.
    - layers: the comparison op by op, where that was asked for.
    - qnn: the build id of the emulator's QNN, where the program was run.
    - tokens: how many tokens of the text the program read in blocks.
    - twin: the verification of the emulator's build of the same inputs and settings, where this host cannot run the
      program itself.
    """

    program: ProgramFacts
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: Found | None = None
    layers: LayerComparison | None = None
    qnn: str | None = None
    tokens: int = 0
    twin: "Verification | None" = None

    @property
    def verdict(self) -> str:
        """Return `good`, `broken` or `not checked`; `good as its twin` for a program that was not run, and whose twin
        is good.
        """
        if self.faults:
            return "broken"
        if self.twin is not None:
            return "good as its twin" if self.twin.verdict == "good" else "not checked"
        return "good" if self.found else "not checked"

    @property
    def ran(self) -> "Verification":
        """Return the verification that the figures are of: its own, or its twin's."""
        return self.twin or self


def verify(
    path: Path, model: Reference, tokens: list[int], quick: bool, host: Host, locate: bool = False
) -> Verification:
    """Run all checks of a program on a text of token ids, of which the host's emulator reads the first few hundred.

    A program that the emulator cannot run is checked without it, and its twin is verified in its place. locate: compare
    the layers op by op, too, where hexport built the program. Raises HexportError where the program crashes or hangs.
    """
    program = host.inspect(path)
    built = built_program(program.path)
    structure, rest = contract_faults(program, model)
    structure += manifest_faults(built, program) if built else ()
    result = Verification(program, [*structure, *rest])
    if structure:
        result.notes.append("it was not run: it is not what it should be, or not a program of this checkpoint")
        return result
    if refusal := emulator_refusal(program):
        result.notes.append(f"it was not run: {refusal}")
        if built:
            _verify_twin(result, built, model, tokens, quick, host, locate)
        return result
    amounts = amounts_of(program, len(tokens), quick)
    with tempfile.TemporaryDirectory() as folder:
        reading = host.read(program.path, tokens, amounts, Path(folder))
    result.qnn, result.tokens = reading.qnn, len(reading.logits)
    result.found = _compared(result, model.checkpoint, tokens, amounts, reading, built, host.progress)
    found = result.found
    result.faults += faults_of(found)
    # A good program clips what calibration did not see, so a departure alone is no fault.
    if result.faults and found.keys_db and found.layers_db:
        found.located = located(found.keys_db, found.layers_db, found.text["sqnr_db"])
    if found.departs is not None and not result.faults:
        result.notes.append(
            f"in front of layer {found.departs} the error leaps, as noise does only where the recipe has fewer bits"
        )
    if locate and built:
        try:
            checkpoint = built.turned(model.checkpoint)
            result.layers = built.layers_on_emulator(checkpoint, tokens[: result.tokens], host.progress)
        except HexportError as error:
            result.notes.append(f"not compared op by op: {error}")
    if unseen := found.unseen:
        result.notes.append(f"below what can be seen in its noise: {', '.join(unseen)}")
    return result


def _verify_twin(
    result: Verification, built: Built, model: Reference, tokens: list[int], quick: bool, host: Host, locate: bool
) -> None:
    """Verify the emulator's build of the same inputs and settings, and take its faults for the program's."""
    twin, why_not = built_twin(built)
    if twin is None:
        result.notes += [why_not] if why_not else []
        return
    result.twin = verify(twin, model, tokens, quick, host, locate)
    result.faults += [f"its twin, the emulator's build: {fault}" for fault in result.twin.faults]
    result.notes.append(f"all figures are of its twin, the emulator's build of the same inputs and settings: {twin}")
    result.notes += result.twin.notes


def _compared(
    result: Verification,
    checkpoint: Checkpoint,
    tokens: list[int],
    amounts: Amounts,
    reading: Reading,
    built: Built | None,
    progress: Progress,
) -> Found:
    """Compare the reading with the float decoder, the fake-quantised one where that is known, and
    those with mistakes.
    """
    program, n = result.program, len(reading.logits)
    context_len = lengths_of(program)["context_length"]
    text, answered = tokens[:n], tokens[: amounts.behind] + reading.answer[:-1]
    turned = built.turned(checkpoint) if built else checkpoint
    decoder = RecordingDecoder(turned, context_len)
    with progress.stage("float decoder"):
        exact = _logits(decoder, checkpoint, text)
        of_answer = _logits(FloatDecoder(checkpoint, context_len), checkpoint, answered)
    start, first = amounts.behind - amounts.decoded, reading.first_block
    choices = [int(row.argmax()) for row in of_answer[amounts.behind - 1 :]]
    found = Found(
        text=agreement(exact, reading.logits, text),
        first_block_db=sqnr_db(exact[:first], reading.logits[:first]),
        cached_db=sqnr_db(exact[first:], reading.logits[first:]) if first < n else None,
        again_db=reading.again_db,
        decoded_db=sqnr_db(reading.logits[start : amounts.behind], reading.decoded[: amounts.decoded]),
        answer=reading.answer,
        answer_like_float=_common(reading.answer, choices),
        layers_db=layers_db(program, reading.v, decoder.v),
        keys_db=keys_db(program, reading.k, decoder.k),
        prefills=PREFILL_METHOD in program.methods,
    )
    quantised = exact
    if built:
        try:
            with progress.stage("fake-quantised decoder"):
                quantised = _logits(built.decoder(turned, context_len), checkpoint, text)
            found.qdq_db, found.qdq_float_db = sqnr_db(quantised, reading.logits), sqnr_db(exact, quantised)
        except HexportError as error:
            result.notes.append(f"not compared with the fake-quantised decoder: {error}")
    rows = _Rows(checkpoint, context_len, text, reading.logits, quantised, exact)
    found.mistakes = rows.projections(mistakes_of(checkpoint.config), progress, "mistakes")
    if found.made is None and found.layers_db:
        found.departs = departure([*found.layers_db, found.text["sqnr_db"]])
    if found.departs is not None:
        near = mistakes_in_layer(checkpoint.config, found.departs)[:MOST_IN_LAYERS]
        found.mistakes += rows.projections(near, progress, f"mistakes near layer {found.departs}")
    return found


@dataclass(frozen=True)
class _Rows:
    """Logits of a text that mistakes are compared with: the program's, the fake-quantised decoder's and the float
    decoder's.
    """

    checkpoint: Checkpoint
    context_len: int
    text: list[int]
    program: np.ndarray
    quantised: np.ndarray
    exact: np.ndarray

    def projections(self, mistakes: list[Mistake], progress: Progress, name: str) -> list[tuple[Mistake, Projection]]:
        with progress.stage(name):
            steps = progress.steps(mistakes, name, len(mistakes), "mistake")
            return [(mistake, self._projection(mistake)) for mistake in steps]

    def _projection(self, mistake: Mistake) -> Projection:
        mistaken = mistaken_logits(self.checkpoint, self.context_len, self.text, mistake)
        projection = Projection()
        for start in range(0, len(mistaken), ROWS):
            rows = slice(start, start + ROWS)
            projection.add(self.program[rows], self.quantised[rows], self.exact[rows], mistaken[rows])
        return projection


def mistaken_logits(checkpoint: Checkpoint, context_len: int, text: list[int], mistake: Mistake) -> np.ndarray:
    """Return the float32 logits (tokens, vocab) of a decoder that makes a mistake."""
    decoder = MistakenDecoder(checkpoint, context_len, mistake.change(checkpoint.config))
    return _logits(decoder, checkpoint, text)


def _logits(decoder: StreamedDecoder, checkpoint: Checkpoint, tokens: list[int]) -> np.ndarray:
    """Return the float32 logits (tokens, vocab) of a decoder."""
    return whole_logits(decoder, checkpoint.config, [tokens], _Silent()).cpu().numpy()


def _common(answer: list[int], choices: list[int]) -> int:
    """Return how many tokens both begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(answer, choices, strict=True)) if a != b), len(answer))


class _Silent(Progress):
    """The progress of a part that takes a second: it says nothing."""

    def say(self, line: str, *, passing: bool = False, cost: bool = False) -> None:
        pass
