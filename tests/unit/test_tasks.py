"""Tasks of lm-eval, and local texts as such."""

import json
import logging
import math
from pathlib import Path

import pytest
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from hexport.errors import HexportError
from hexport.evaluation.local_text import DOCUMENT_WORDS, documents
from hexport.evaluation.tasks import load_tasks

pytestmark = pytest.mark.slow  # lm-eval takes seconds to import

PARAGRAPH = "The quick brown fox jumps over the lazy dog near Größe.\n"  # 11 words


class ConstantModel(LM):
    """Gives each word of a text, and each letter of a continuation, a log-likelihood of -2."""

    def loglikelihood(self, requests):
        return [(-2.0 * len(request.args[1]), True) for request in requests]

    def loglikelihood_rolling(self, requests):
        return [-2.0 * len(request.args[0].split()) for request in requests]

    def generate_until(self, requests):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Data sets of files are copied there."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    logging.getLogger("lm_eval").setLevel(logging.NOTSET)


@pytest.fixture
def parity(tmp_path) -> str:
    """The YAML file of a multiple-choice task on a file of eight questions: even numbers are answered yes."""
    rows = [{"question": f"Is {i} even?", "answers": ["yes", "no"], "right": i % 2} for i in range(8)]
    (tmp_path / "parity.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "parity",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "parity.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "answers",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (tmp_path / "parity.yaml").write_text(json.dumps(task))  # JSON is YAML
    return str(tmp_path / "parity.yaml")


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n" + PARAGRAPH * 200 + "\n{{ not a template }} end", encoding="utf-8")
    return path


def test_documents_are_whole_lines_and_lose_no_word():
    lines = [PARAGRAPH] * 100 + ["\n", "word " * 900 + "\n", "\n", *[PARAGRAPH] * 7]
    found = documents("".join(lines))
    assert " ".join(found).split() == "".join(lines).split()
    assert {line for page in found for line in page.splitlines()} == {line.strip() for line in lines} - {""}
    assert [len(page.split()) for page in found] == [506, 506, 88, 900, 77]
    assert all(page == page.strip() for page in found)
    assert DOCUMENT_WORDS == 512


def test_a_local_text_is_scored_by_lm_evals_metrics(text):
    tasks = load_tasks(["mine"], {"mine": text}, num_fewshot=5)
    assert tasks["mine"].get_config("num_fewshot") == 0  # a text has no examples
    results = evaluate(ConstantModel(), tasks, bootstrap_iters=0)["results"]["mine"]
    words = len(text.read_text(encoding="utf-8").split())
    n_bytes = sum(len(page.encode()) for page in documents(text.read_text(encoding="utf-8")))
    assert results["word_perplexity,none"] == pytest.approx(math.exp(2))
    assert results["byte_perplexity,none"] == pytest.approx(math.exp(2 * words / n_bytes))
    assert results["bits_per_byte,none"] == pytest.approx(2 * words / n_bytes / math.log(2))
    limited = evaluate(ConstantModel(), tasks, limit=2, bootstrap_iters=0)
    assert limited["n-samples"]["mine"] == {"original": 5, "effective": 2}


def test_multiple_choice_of_a_yaml_file_beside_a_text(parity, text):
    tasks = load_tasks(["quiz", "mine"], {"mine": text}, None, {"quiz": parity})
    assert list(tasks) == ["parity", "mine"]
    results = evaluate(ConstantModel(), tasks, limit=4, bootstrap_iters=0)["results"]
    assert results["parity"]["acc,none"] == 0.5  # `no` is the shorter answer
    tasks["parity"].build_all_requests(limit=1)
    assert [request.args for request in tasks["parity"].instances] == [
        ("Is 0 even?", " yes"),
        ("Is 0 even?", " no"),
    ]


def test_examples_are_the_same_each_time(parity):
    def contexts():
        task = load_tasks(["quiz"], {}, 2, {"quiz": parity})["parity"]
        task.build_all_requests()
        return [request.args[0] for request in task.instances]

    first = contexts()
    assert first == contexts()
    for i in range(8):
        assert first[2 * i].count("even?") == 3
        assert first[2 * i].endswith(f"\n\nIs {i} even?")
    assert len({context.rsplit("\n\n", 1)[0] for context in first}) > 1


def test_what_cannot_be_loaded_is_one_line(tmp_path, text, monkeypatch):
    def error(name: str) -> str:
        with pytest.raises(HexportError) as caught:
            load_tasks([name], {"mine": text}, None, {name: name} if name.endswith(".yaml") else None)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    text.write_bytes(b"abc\xff")
    assert error("mine") == f"{text}: not UTF-8 text: byte 3: invalid start byte"
    text.write_text(" \n ")
    assert error("mine") == f"{text}: the text is empty"
    text.unlink()
    assert error("mine") == f"{text}: no such file"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    online = {"task": "online", "dataset_path": "nobody/nothing", "test_split": "test", "doc_to_text": "q"}
    (tmp_path / "online.yaml").write_text(json.dumps(online))
    line = error(str(tmp_path / "online.yaml"))
    assert "nobody/nothing" in line
    assert "local text, which works offline: tasks: {mine: {text: file.txt}}" in line
    (tmp_path / "broken.yaml").write_text(json.dumps({"task": "broken", "dataset_path": "json", "class": "nothing"}))
    assert "broken.yaml: lm-eval cannot load it: " in error(str(tmp_path / "broken.yaml"))


def test_a_task_file_runs_no_code_unless_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without files of its own, the data set looks through the working folder
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\ndef text(doc): return ''\n")
    file = tmp_path / "evil.yaml"
    file.write_text("task: evil\ndataset_path: json\ntest_split: test\ndoc_to_text: !function code.text\n")
    with pytest.raises(HexportError, match=r"^unknown task '.*evil.yaml'; "):
        load_tasks([str(file)], {}, None)
    assert not ran.exists()
    with pytest.raises(HexportError, match=r"^task mine: lm-eval cannot load it: "):  # it has no data
        load_tasks(["mine"], {}, None, {"mine": str(file)})
    assert ran.exists()


@pytest.mark.parametrize("taken", ["tasks", "groups", "wikitext"])
def test_a_task_file_cannot_take_the_name_of_another_task(parity, taken):
    Path(parity).write_text(Path(parity).read_text().replace('"task": "parity"', f'"task": "{taken}"'))
    with pytest.raises(HexportError, match=rf"^task quiz: .*parity.yaml names a task '{taken}', and that is taken"):
        load_tasks(["quiz", "wikitext"], {}, None, {"quiz": parity})


def test_an_unknown_name(text):
    with pytest.raises(HexportError, match=r"unknown task 'mime'; did you mean mine\?"):
        load_tasks(["mime"], {"mine": text}, None)
    with pytest.raises(HexportError, match=r"unknown task 'wikitxt'; did you mean wikitext\?"):
        load_tasks(["wikitxt"], {}, None)
