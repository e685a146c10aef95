"""This module follows the stages of the HTP compiler, as it prints them for each graph.

It prints `Starting stage: Graph Optimizations` and so on, and for some a bar that fills up, ` [####      ]  38%`.
"""

import re

from hexport.progress import BAR, Progress

FIRST_STAGE = "Graph Preparation Initializing"
STAGE = re.compile(r"Starting stage: (.+)")


class CompilerStages:
    """An instance says which stage of which graph the compiler is in, as the log shows. Without a log, it is silent."""

    def __init__(self, progress: Progress, n_graphs: int):
        self._progress, self._n_graphs, self._graph = progress, n_graphs, 0
        self._log = progress.follow_log()
        self._stage = self._rest = ""

    def look(self) -> None:
        """Say what has come to the log since the last look. It never waits."""
        *lines, self._rest = (self._rest + next(self._log)).split("\n")
        shown = ""
        for line in lines:
            if stage := STAGE.match(line):
                self._graph += stage[1] == FIRST_STAGE
                graph = f"graph {self._graph} of {self._n_graphs}, " if self._n_graphs > 1 else ""
                self._stage, shown = f"HTP compiler: {graph}{stage[1]}", ""
                self._progress.say(self._stage, passing=True)
            elif self._stage and (bar := BAR.match(line)):
                shown = f"{self._stage}, {bar[1]}"
        if shown:
            self._progress.show(shown)
