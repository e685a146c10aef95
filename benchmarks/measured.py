"""What one command costs as a whole process: wall and CPU seconds, and peak memory."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float
    peak_mb: float

    def row(self, name: str) -> str:
        return f"{name:<28}{self.wall_s:>10.1f}{self.cpu_s:>10.1f}{self.peak_mb:>10.0f}"


HEADER = f"{'':<28}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}"


def measured(*command: str) -> Cost:
    """Run a command to its end. Exits with its output if it fails."""
    start = time.perf_counter()
    with open(os.devnull, "w") as devnull:
        process = subprocess.Popen([sys.executable, *command], stdout=devnull, stderr=devnull)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"benchmark: {' '.join(command)} failed; run it by hand to see why")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


class Timed:
    """Stands in for methods of a program, and adds up the seconds that their calls take."""

    def __init__(self, seconds: list[float], method):
        self._seconds, self._method = seconds, method

    @classmethod
    def of(cls, generator) -> "Timed":
        """Put into all graphs of a generator."""
        seconds: list[float] = []
        for graph in {id(graph): graph for graph in (generator.prefill_graph, generator.decode_graph)}.values():
            graph.method = cls(seconds, graph.method)
        return graph.method

    @property
    def seconds(self) -> float:
        return sum(self._seconds)

    def execute(self, inputs):
        start = time.perf_counter()
        outputs = self._method.execute(inputs)
        self._seconds.append(time.perf_counter() - start)
        return outputs


def ratio(slow: Cost, fast: Cost) -> str:
    row = (slow.wall_s / fast.wall_s, slow.cpu_s / fast.cpu_s, slow.peak_mb / fast.peak_mb)
    return f"{'ratio':<28}" + "".join(f"{value:>9.1f}x" for value in row)
