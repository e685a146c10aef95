"""Where programs run, and where the results of evaluations and runs lie."""

from typing import NamedTuple


class Place(NamedTuple):
    """Where a program runs."""

    model: str
    recipe: str
    target: str
    device: str
    mode: str


def fp_file(artifacts: str, model: str) -> str:
    return f"{artifacts}/{model}/evaluation/fp.json"


def qdq_file(artifacts: str, model: str, recipe: str) -> str:
    return f"{artifacts}/{model}/{recipe}/evaluation/qdq.json"


def device_file(artifacts: str, place: Place) -> str:
    return f"{artifacts}/{'/'.join(place)}/evaluation.json"


def result_file(artifacts: str, place: Place) -> str:
    return f"{artifacts}/{'/'.join(place)}/result.json"
