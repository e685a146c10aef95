"""Programs that are damaged in many ways, each inspected and run in a fork of one process; what came of each."""

import json
import os
import random
from pathlib import Path

from hexport.child import answer
from hexport.programs.context_binary import MAGIC
from hexport.progress import Progress

SECONDS = 60  # for one program


def outcomes(program: Path, folder: Path, n: int, seed: int = 0) -> list[tuple[str, str]]:
    """What became of n damaged copies of a program: the kind of damage, and `refused: …`, `answered: …` or
    `signal: …`. Copies are written into the folder."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    names = {"what": "damaged programs", "advice": "see the test"}
    return [tuple(found) for found in answer(_outcomes, program, folder, n, seed, progress=Progress(), **names)]


def _outcomes(_: Progress, program: Path, folder: Path, n: int, seed: int) -> list[tuple[str, str]]:
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()
    import hexport.devices.emulator
    import hexport.programs.report  # noqa: F401 - once, before the forks

    content, dice, path = program.read_bytes(), random.Random(seed), folder / "damaged.pte"
    found = []
    for _ in range(n):
        kind = dice.choice(sorted(DAMAGES))
        path.write_bytes(DAMAGES[kind](bytearray(content), dice))
        found.append((kind, _in_fork(path)))
    return found


def _in_fork(path: Path) -> str:
    import signal

    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        os.write(ours, json.dumps(_outcome(path)).encode())
        os._exit(0)
    os.close(ours)
    with open(theirs, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(said) if status == 0 else f"signal: {os.waitstatus_to_exitcode(status)}"


def _outcome(path: Path) -> str:
    from hexport.devices.emulator import Run, load_generator
    from hexport.errors import HexportError
    from hexport.programs.conformance import faults
    from hexport.programs.inspection import inspect_program
    from hexport.programs.report import program_json

    try:
        facts = inspect_program(path)
        program_json(facts, faults(facts))
        generator = load_generator(path, Run("kv", None, "", 0.0, 12), Progress())
        return f"answered: {generator.generate([256, *b'On'], 9, frozenset()).token_ids}"
    except HexportError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"trace: {type(error).__name__}: {error}"


def _flip(content: bytearray, dice: random.Random, first: int, end: int) -> bytes:
    content[dice.randrange(first, end)] ^= 1 << dice.randrange(8)
    return bytes(content)


def _write(content: bytearray, at: int, new: bytes) -> bytes:
    content[at : at + len(new)] = new
    return bytes(content)


def _swap(content: bytearray, first: int) -> bytes:
    middle = (first + len(content)) // 2
    return bytes(content[:first] + content[middle:] + content[first:middle])


def _number(content: bytearray, dice: random.Random) -> bytes:
    """A number of a header, or any other."""
    header = content.index(MAGIC)
    places = [8, 12, 16, 24, 32, header, header + 4, header + 12, dice.randrange(len(content) - 8)]
    numbers = [0, 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1]
    return _write(content, dice.choice(places), dice.choice(numbers).to_bytes(8, "little"))


DAMAGES = {
    "a bit of the tables": lambda content, dice: _flip(content, dice, 0, content.index(MAGIC)),
    "a bit of a context's header": lambda content, dice: _flip(
        content, dice, content.index(MAGIC), content.index(MAGIC) + 6000
    ),
    "a bit anywhere": lambda content, dice: _flip(content, dice, 0, len(content)),
    "a number": _number,
    "halves of the file": lambda content, dice: _swap(content, 0),
    "halves of the segments": lambda content, dice: _swap(content, content.index(MAGIC)),
    "cut short": lambda content, dice: bytes(content[: dice.randrange(len(content))]),
    "random bytes": lambda content, dice: _write(content, dice.randrange(len(content) - 256), dice.randbytes(256)),
    "zeros": lambda content, dice: _write(content, dice.randrange(len(content) - 512), bytes(512)),
}
