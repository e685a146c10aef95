"""What a gate lets through, and the line that a user sees when it does not."""

import json

import pytest

from check_gates import main
from hexport.evaluation.gates import perplexity_ratios, ratio_warnings

QDQ = {
    "tasks": {"wiki": {"word_perplexity": 24.0}, "piqa": {"acc": 0.5}},
    "perplexity_ratio": {"wiki": 1.25},
    "sqnr_db": 21.5,
}


@pytest.fixture
def qdq(tmp_path):
    """`qdq(**changes)`: a qdq.json."""

    def write(**changes):
        file = tmp_path / "qdq.json"
        file.write_text(json.dumps({**QDQ, **changes}))
        return file

    return write


@pytest.mark.parametrize(
    "gates",
    [{"max_perplexity_ratio": 1.25}, {"min_sqnr_db": 21.5}, {"max_perplexity_ratio": 1.3, "min_sqnr_db": -3.0}],
)
def test_what_passes_leaves_the_same_file(run_script, qdq, tmp_path, gates):
    output = tmp_path / "evaluation" / "gates.json"
    run_script(main, {"model": "m", **gates}, figures=qdq(), output=output)
    assert json.loads(output.read_text()) == {"passed": True}
    manifest = json.loads((tmp_path / "evaluation" / "gates.json.manifest.json").read_text())
    assert manifest["params"] == {"model": "m", **gates}


@pytest.mark.parametrize(
    ("changes", "gates", "expected"),
    [
        ({}, {"max_perplexity_ratio": 1.1}, ["max_perplexity_ratio: task wiki: 24 / 19.2 = 1.25 is more than 1.1"]),
        ({}, {"min_sqnr_db": 22.0}, ["min_sqnr_db: 21.5 dB is less than 22 dB"]),
        (
            {},
            {"max_perplexity_ratio": 1.2, "min_sqnr_db": 30.0},
            [
                "max_perplexity_ratio: task wiki: 24 / 19.2 = 1.25 is more than 1.2",
                "min_sqnr_db: 21.5 dB is less than 30 dB",
            ],
        ),
        (
            {"perplexity_ratio": {"wiki": None}, "tasks": {"wiki": {"word_perplexity": None}}},
            {"max_perplexity_ratio": 9.0},
            ["max_perplexity_ratio: task wiki: not finite"],
        ),
        ({"sqnr_db": None}, {"min_sqnr_db": 1.0}, ["min_sqnr_db: the SQNR is not finite"]),
        (
            {"perplexity_ratio": {}, "tasks": {"piqa": {"acc": 0.5}}},
            {"max_perplexity_ratio": 9.0},
            ["max_perplexity_ratio: piqa: no perplexity is measured; add a text to its tasks"],
        ),
    ],
)
def test_what_fails_is_one_line_with_the_figures(script_error, qdq, tmp_path, changes, gates, expected):
    output = tmp_path / "evaluation" / "gates.json"
    line = script_error(main, {"model": "m", **gates}, figures=qdq(**changes), output=output)
    *failures, nothing, advice = line.removeprefix("error: ").split("; ")
    if "add a text to its tasks" in line:
        failures = ["; ".join(failures)]
    assert failures == [f"models.m.evaluation.{failure}" for failure in expected]
    assert (nothing, advice) == ("nothing of it goes to a device", "docs/evaluation.md tells how to mend it")


def test_a_ratio_above_1_2_is_worth_a_warning():
    assert ratio_warnings(QDQ) == [
        "warning: task wiki: perplexity over that of fp: 24 / 19.2 = 1.25 is more than 1.2; "
        "docs/evaluation.md tells how to mend it"
    ]
    assert ratio_warnings({**QDQ, "perplexity_ratio": {"wiki": 1.2}}) == []


def test_ratios_are_those_of_tasks_with_a_perplexity():
    found = {"a": {"word_perplexity": 3.0}, "b": {"acc": 0.5}, "c": {"word_perplexity": None}}
    reference = {"a": {"word_perplexity": 2.0}, "b": {"acc": 0.25}, "c": {"word_perplexity": 2.0}}
    assert perplexity_ratios(found, reference) == {"a": 1.5, "c": None}
