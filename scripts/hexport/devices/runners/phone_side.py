"""This module is the part of the runner `hexport` that runs on the phone. It loads a program once, then does what the
host asks for.

A request is a JSON file of this folder. A line on stdin names it, and it is removed when it is read. The first request
says what to load. An answer on stdout is a line, its CRC-32 and JSON, with the length and the hash of the bytes that
follow it. What libraries print goes to stderr.
"""

from __future__ import annotations  # so that a Python too old for executorch can still say so

import dataclasses
import hashlib
import json
import os
import sys
import time
import traceback
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path


class Answers:
    """An instance is the way to the host: it keeps this process' stdout for itself, so that all others
    print to stderr.
    """

    def __init__(self):
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, event: str, payload: bytes = b"", **facts: object) -> None:
        """Send an event with these facts, and `payload` behind its line."""
        header = {"event": event, **facts, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        line = json.dumps(header).encode()
        self._out.write(b"%08x %s\n%s" % (zlib.crc32(line), line, payload))
        self._out.flush()

    def send_json(self, event: str, value: object) -> None:
        """Send an event whose payload is a value as JSON."""
        self.send(event, json.dumps(value).encode())


def main() -> int:
    """Serve requests from stdin until it ends; return the exit code, which is 1 where an error was told to the host."""
    answers = Answers()
    try:
        serve(requests(sys.stdin), answers)
    except Exception as error:
        traceback.print_exc()
        answers.send_json("error", error_facts(error))
        return 1
    return 0


def error_facts(error: Exception) -> dict[str, str | None]:
    """Return what the host makes its one line of. `missing` is the module that this Python lacks, or None."""
    kind = "" if type(error).__name__ in ("HexportError", "RuntimeError") else f"{type(error).__name__}: "
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return {"line": " ".join(f"{kind}{error}".split()), "missing": missing}


def requests(lines: Iterable[str]) -> Iterator[dict]:
    """Yield the request of each file that a line names, and remove the file."""
    for line in lines:
        file = Path(line.strip())
        request = json.loads(file.read_bytes())
        file.unlink()
        yield request


def serve(asked: Iterator[dict], answers: Answers) -> None:
    """Load the program that the first request names, and answer the others until the host closes stdin.

    The imports stand here, so that the host is told too what this Python lacks.
    """
    import executorch.runtime  # noqa: F401 - the import takes seconds that are not the program's

    from hexport.runtime.decode import Generator
    from hexport.runtime.lookahead import Size
    from hexport.runtime.sampling import Sampler

    task = next(asked)
    start = time.perf_counter()
    graphs = load_graphs(task["program"], task["graphs"])
    answers.send_json("loaded", {"load_s": time.perf_counter() - start})
    if "run" in task:
        run = task["run"]
        size = Size(**run["lookahead"]) if run["lookahead"] else None
        prefill_graph, decode_graph = (graphs[method] for method in run["methods"])
        generator = Generator(prefill_graph, decode_graph, Sampler(run["temperature"]), size)
        for request in asked:
            generate(generator, request, answers)
    else:
        (graph,) = graphs.values()
        for request in asked:
            send_logits(graph, request, answers)


def load_graphs(program: str, values: dict[str, dict]) -> dict[str, object]:
    """Return the loaded graphs by method. `values` are those of `runtime.program.graph_values`, which the host has read
    and checked. Raises RuntimeError for a method that does not load.
    """
    from executorch.runtime import Runtime, Verification

    from hexport.runtime.graph import Graph

    loaded = Runtime.get().load_program(Path(program), verification=Verification.InternalConsistency)
    graphs = {}
    for method, sizes in values.items():
        try:
            graphs[method] = Graph(method=loaded.load_method(method), **sizes)
        except RuntimeError as error:
            raise RuntimeError(
                f"{method} does not load: {error}; see whether qnn_sdk and executorch of this device fit the program"
            ) from None
    return graphs


def generate(generator: object, request: dict, answers: Answers) -> None:
    """Answer one prompt, and send each block and token as an event, and the generation as the last one."""
    generator.begin(request["conversation"])
    generator.cache.keep(request["n_past"])
    generation = generator.generate(
        request["tokens"],
        request["end"],
        frozenset(request["stop_ids"]),
        lambda: answers.send("block"),
        lambda token: answers.send("token", token=token),
    )
    answers.send_json("generation", {**dataclasses.asdict(generation), "n_past": generator.cache.n_past})


def send_logits(graph: object, request: dict, answers: Answers) -> None:
    """Send the logits of each call as the program puts them out, in frames of one row or more."""
    import numpy as np

    from hexport.runtime.reading import read_new

    for codes in read_new(graph, request["inputs"], as_put_out=True):
        rows = max(1, request["frame_bytes"] // codes[0].nbytes)
        for first in range(0, len(codes), rows):
            frame = np.ascontiguousarray(codes[first : first + rows])
            answers.send("rows", frame.tobytes(), left=len(codes) - first - len(frame))


if __name__ == "__main__":
    sys.exit(main())
