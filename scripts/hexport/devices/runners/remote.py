"""This module tells what a program on a phone looks like to this host: the sizes of its graphs."""

from hexport.devices.emulator import Run, mode_graphs
from hexport.programs.facts import ProgramFacts
from hexport.runtime.graph import GraphSizes
from hexport.runtime.program import graph_values


def mode_sizes(facts: ProgramFacts, run: Run) -> tuple[GraphSizes, GraphSizes]:
    """Return the sizes of the prefill and of the decode graph of a mode. Raises HexportError for a program that lacks
    one of them.
    """
    return mode_graphs(facts.path, facts.methods, lambda method: graph_sizes(facts, method), run)


def graph_sizes(facts: ProgramFacts, method: str) -> GraphSizes:
    """Return the sizes of a graph by its method. Raises HexportError for a program that lacks the method."""
    values = graph_values(facts, method)
    return GraphSizes(values["ar_len"], values["context_len"], values["vocab_size"])
