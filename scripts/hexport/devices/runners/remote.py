"""This module tells what a program on a phone looks like to this host: the sizes of its graphs, and how much its cache
holds.
"""

from dataclasses import dataclass
from pathlib import Path

from hexport.devices.emulator import Run, mode_graphs
from hexport.programs.facts import ProgramFacts
from hexport.runtime.graph import GraphSizes
from hexport.runtime.program import checked_facts, graph_values


@dataclass
class RemoteCache:
    """An instance stands for the phone's KV cache, which holds the first n_past tokens of a conversation."""

    n_past: int = 0

    def keep(self, n: int) -> None:
        """Forget all but the first n tokens, from the next answer on. Raises ValueError for more than there are."""
        if not 0 <= n <= self.n_past:
            raise ValueError(f"{n} tokens of {self.n_past} cannot be kept")
        self.n_past = n


def sizes_in_mode(program: Path, run: Run) -> tuple[GraphSizes, GraphSizes]:
    """Return the sizes of the prefill and of the decode graph of a mode; the program is read and not loaded.

    Raises HexportError for a file that does not obey the ABI, and for a program that lacks the mode's graphs.
    """
    return mode_sizes(checked_facts(program), run)


def mode_sizes(facts: ProgramFacts, run: Run) -> tuple[GraphSizes, GraphSizes]:
    """Return what `sizes_in_mode` does, from a program's facts."""
    return mode_graphs(facts.path, facts.methods, lambda method: graph_sizes(facts, method), run)


def graph_sizes(facts: ProgramFacts, method: str) -> GraphSizes:
    """Return the sizes of a graph by its method. Raises HexportError for a program that lacks the method."""
    values = graph_values(facts, method)
    return GraphSizes(values["ar_len"], values["context_len"], values["vocab_size"])
