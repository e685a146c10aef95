"""A task file of lm-eval's can run code: it takes the user's word, and its parts make stale what is made from them."""

from pathlib import Path

import pytest

from hexport.build import evaluations, matrix
from hexport.config.checks import check_config
from hexport.config.settings import Config, parse_config
from hexport.config.task_file import task_file_parts
from hexport.errors import HexportError

CAN_RUN_CODE = "a task file of lm-eval can run any code (`!function`, templates)"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text("devices: {e: {kind: emulator, soc: SM8650}}")
    for name in ("a.gguf", "quiz.yaml", "tale.txt"):
        Path(name).write_text("")


def config(tasks: dict, used: list[str]) -> Config:
    model = {"checkpoint": "a.gguf", "calibration": {"tasks": used}, "evaluation": {"tasks": used}}
    return parse_config({"models": {"m": model}, "tasks": tasks}, "config.yaml")


def faults(tasks: dict, used: list[str] | None = None) -> list[str]:
    with pytest.raises(HexportError) as error:
        check_config(config(tasks, used or ["piqa"]), "config.yaml")
    return [line.removeprefix("config.yaml: ") for line in str(error.value).splitlines()]


def test_a_task_file_needs_the_users_word():
    word = f"tasks.quiz.trusted: {CAN_RUN_CODE}; read quiz.yaml, and add trusted: true to let it"
    assert faults({"quiz": {"yaml": "quiz.yaml"}}) == [word]
    assert faults({"quiz": {"yaml": "quiz.yaml", "trusted": False}}) == [word]
    check_config(config({"quiz": {"yaml": "quiz.yaml", "trusted": True}}, ["quiz"]), "config.yaml")


@pytest.mark.parametrize("path", ["quiz.yaml", "./quiz.yaml", "folder/quiz", "quiz.yml"])
def test_a_path_in_place_of_a_name_needs_it_too(path):
    assert faults({}, [path]) == [
        f"models.m.{key}.tasks: {path}: {CAN_RUN_CODE}; name it in the key tasks, "
        f"mine: {{yaml: {path}, trusted: true}}, and mine here"
        for key in ("calibration", "evaluation")
    ]


def test_a_task_is_a_text_or_a_task_file():
    assert faults({"t": {}}) == ["tasks.t: expected one of text and yaml, got none"]
    both = {"text": "tale.txt", "yaml": "quiz.yaml", "trusted": True}
    assert faults({"t": both}) == ["tasks.t: expected one of text and yaml, got both"]
    assert faults({"t": {"text": "tale.txt", "trusted": True}}) == [
        "tasks.t.trusted: goes with yaml; a text runs no code"
    ]
    assert faults({"t": {"yaml": "no.yaml", "trusted": True}}) == ["tasks.t.yaml: no.yaml: no such file"]


@pytest.mark.parametrize("name", ["tasks", "groups", "group_map"])
def test_a_name_that_lm_eval_takes_for_itself(name):
    assert faults({name: {"text": "tale.txt"}}) == [f"tasks.{name}: the name is taken by lm-eval; choose another"]
    assert faults({}, [name]) == [
        f"models.m.{key}.tasks: {name}: no task can have this name, which lm-eval takes for itself"
        for key in ("calibration", "evaluation")
    ]


def test_parts_of_a_task_file():
    Path("lib").mkdir()
    Path("lib/base.yaml").write_text("include: deep.yaml\nprocess_docs: !function code.utils.clean\n")
    Path("lib/deep.yaml").write_text("doc_to_text: !function missing.text\ninclude: base.yaml\n")
    Path("lib/code").mkdir()
    Path("lib/code/utils.py").write_text("raise SystemExit('run')")
    Path("data.jsonl").write_text("{}")
    Path("quiz.yaml").write_text(
        "task: quiz\ninclude: [lib/base.yaml]\n"
        "dataset_kwargs: {data_files: {test: data.jsonl, train: [https://example.org/x.jsonl]}}\nclass: !other x\n"
    )
    expected = ["quiz.yaml", "lib/base.yaml", "data.jsonl", "lib/deep.yaml", "lib/code/utils.py"]
    assert [str(path) for path in task_file_parts(Path("quiz.yaml"))] == expected
    trusting = config({"quiz": {"yaml": "quiz.yaml", "trusted": True}}, ["quiz"])
    assert matrix.calibration_files(trusting, "m") == evaluations.evaluation_files(trusting, "m") == expected


@pytest.mark.parametrize("text", ["a: [", "- a", "a: &a [*a]", "[" * 5000, "", "a: !function [x]", "include: {a: 7}"])
def test_a_damaged_task_file_is_one_part(text):
    Path("quiz.yaml").write_text(text)
    assert task_file_parts(Path("quiz.yaml")) == [Path("quiz.yaml")]
