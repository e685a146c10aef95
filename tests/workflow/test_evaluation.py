"""Evaluations, gates and the report: what an edit rebuilds, what a gate holds back, and the figures side by side."""

import csv
import json
import re
import shutil
from pathlib import Path

import documented
import pytest
from test_staleness import PROGRAMS_A, RUN, TEMPLATES_A, at
from workflow_tree import Tree, stand_in

EVALUATION = """\
seq_len: 8
    evaluation: {tasks: [tale], limit: 2}
"""
TASKS = "tasks: {tale: {text: tale.txt}}\n"
FP, QDQ = {"evaluate_fp a/32"}, {"evaluate_qdq a/16a8w/32"}
DEVICE = {"evaluate_device a/16a8w/32/SM8650-emulator/emulator/kv"}
GATE = {"check_gates a/16a8w/32"}
SCRIPTS = ("evaluate_fp.py", "evaluate_qdq.py", "evaluate_device.py", "write_summary.py", "write_report.py")
PLACE = "a/16a8w/ctx32/SM8650-emulator/emulator/kv"
QDQ_FILE = "artifacts/a/16a8w/evaluation/ctx32/qdq.json"
READY = """\
  ready:
    pre_gen_pte: programs
    tokenizer: checkpoints/a
    evaluation: {tasks: [tale]}
"""


def with_evaluation(tree: Tree) -> Tree:
    """Of model a, on a text of its own."""
    (tree.path / "tale.txt").write_text("The ship sailed at dawn, and nobody saw it leave the quiet harbour.\n" * 10)
    tree.edit("config.yaml", "seq_len: 8\n", EVALUATION)
    tree.edit("config.yaml", "socs: [SM8650]\n", f"socs: [SM8650]\n{TASKS}")
    return tree


def copy(tree: Tree, folder: Path) -> Tree:
    shutil.copytree(tree.path, folder / "tree", symlinks=True)
    return Tree(folder / "tree")


@pytest.fixture(scope="module")
def stood_in(built, tmp_path_factory) -> Tree:
    """What evaluates is a stand-in: never change this tree, take `evaluated`."""
    tree = with_evaluation(copy(built, tmp_path_factory.mktemp("evaluation")))
    stand_in(tree, *SCRIPTS)
    assert tree.run() == FP | QDQ | DEVICE
    assert {file.name for file in (tree.path / "artifacts/report").glob("*[lv]")} == {"index.html", "summary.csv"}
    return tree


@pytest.fixture
def evaluated(stood_in, tmp_path) -> Tree:
    return copy(stood_in, tmp_path)


def figures(tree: Tree, file: str) -> dict:
    return json.loads((tree.path / file).read_text())


@pytest.fixture(scope="module")
def really_evaluated(built, tmp_path_factory) -> Tree:
    """By the real scripts, model a's program also as a ready one: never change this, take `tree_with_figures`."""
    tree = with_evaluation(copy(built, tmp_path_factory.mktemp("figures")))
    (tree.path / "programs").mkdir()
    shutil.copy(tree.path / "artifacts/a/16a8w/ctx32/SM8650-emulator/kv_llama_qnn.pte", tree.path / "programs")
    config = tree.path / "config.yaml"
    config.write_text(config.read_text() + READY)
    of_ready = {"extract_tokenizer ready", "evaluate_device ready/16a8w/1024/SM8650-emulator/emulator/kv"}
    assert tree.run("evaluate", "report") == FP | QDQ | DEVICE | of_ready
    return tree


@pytest.fixture
def tree_with_figures(really_evaluated, tmp_path) -> Tree:
    return copy(really_evaluated, tmp_path)


LONGER = at(TEMPLATES_A | PROGRAMS_A | RUN | FP | QDQ | DEVICE, 48)


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("limit: 2", "limit: 3", FP | QDQ | DEVICE),
        ("tasks: [tale], limit", "tasks: [tale, piqa], limit", FP | QDQ | DEVICE),
        ("limit: 2", "limit: 2, num_fewshot: null", set()),
        ("limit: 2", "limit: 2, graph: prefill", set()),
        ("limit: 2", "limit: 2, graph: kv", set()),
        ("prompts: [Once]", "prompts: [Twice]", RUN),
        (
            "Once upon a time,",
            "Once upon a day,",
            {"encode_calibration a", "calibrate a/16a8w"} | PROGRAMS_A | RUN | QDQ | DEVICE,
        ),
        ("32\n    prompts", "48\n    prompts", LONGER),
        ("32\n    prompts", "[32, 48]\n    prompts", LONGER),
    ],
)
def test_an_edit_of_the_config(evaluated, old, new, stale):
    evaluated.edit("config.yaml", old, new)
    assert evaluated.stale() == stale


def test_the_text_of_a_task(evaluated):
    (evaluated.path / "tale.txt").write_text("Another tale.\n")
    assert evaluated.stale() == FP | QDQ | DEVICE


def test_a_change_of_the_figures_reaches_the_report(evaluated):
    report = evaluated.path / "artifacts" / "report"
    before = {file.name: file.stat().st_mtime_ns for file in report.iterdir()}
    evaluated.edit("config.yaml", "limit: 2", "limit: 3")
    assert evaluated.run("report") == FP | QDQ | DEVICE
    assert all(file.stat().st_mtime_ns > before[file.name] for file in report.iterdir())


def test_a_gate_that_is_passed_reruns_nothing(tree_with_figures):
    tree, qdq = tree_with_figures, figures(tree_with_figures, QDQ_FILE)
    tree.edit("config.yaml", "limit: 2", f"limit: 2, min_sqnr_db: {qdq['sqnr_db'] - 10}")
    assert tree.run() == GATE
    tree.edit("config.yaml", "limit: 2", "limit: 2, max_perplexity_ratio: 100")
    assert tree.stale() == GATE
    assert tree.run() == GATE
    assert tree.stale("run", "export", "evaluate", "report") == set()


def test_a_gate_that_is_not_passed_holds_everything_back(tree_with_figures):
    tree, qdq = tree_with_figures, figures(tree_with_figures, QDQ_FILE)
    tree.edit("config.yaml", "limit: 2", f"limit: 2, min_sqnr_db: {qdq['sqnr_db'] + 1}")
    tree.edit("config.yaml", "prompts: [Once]", "prompts: [Twice]")
    result = (tree.path / "artifacts" / PLACE / "result.json").read_text()
    for target in ("export", "run", "evaluate"):
        done = tree.snakemake(target, check=False)
        assert done.returncode != 0
        assert (
            f"error: models.a.evaluation.min_sqnr_db: {qdq['sqnr_db']:.1f} dB is less than {qdq['sqnr_db'] + 1:g} dB; "
            "nothing of it goes to a device; docs/evaluation.md tells how to mend it\n"
        ) in done.stderr
    assert (tree.path / "artifacts" / PLACE / "result.json").read_text() == result
    tree.edit("config.yaml", f"min_sqnr_db: {qdq['sqnr_db'] + 1}", "min_sqnr_db: 1")
    assert tree.run() == GATE | RUN


def test_the_keys_are_those_of_docs_artifacts(really_evaluated):
    section, on_phones = "fp.json, qdq.json, evaluation.json", ["runner"]
    fp, device = "artifacts/a/evaluation/ctx32/fp.json", f"artifacts/{PLACE}/evaluation.json"
    for phase, file in {"fp": fp, "qdq": QDQ_FILE, "device": device}.items():
        documented.check(figures(really_evaluated, file), section, absent=on_phones, only=phase)
    text = documented.PAGE.read_text()
    with (really_evaluated.path / "artifacts/report/summary.csv").open() as file:
        figures_of = {re.sub("^(fp|qdq|device)_", "", column) for column in next(csv.reader(file))}
    assert all(f"`{name}`" in text for name in figures_of - {"byte_perplexity", "bits_per_byte"})


def test_three_phases_side_by_side(really_evaluated):
    tree = really_evaluated
    fp, qdq = figures(tree, "artifacts/a/evaluation/ctx32/fp.json"), figures(tree, QDQ_FILE)
    device = figures(tree, f"artifacts/{PLACE}/evaluation.json")
    assert [content["phase"] for content in (fp, qdq, device)] == ["fp", "qdq", "device"]
    assert fp["tokens"] == qdq["tokens"] == device["tokens"] > 500
    assert fp["limit"] == qdq["limit"] == device["limit"] == 2
    log = (tree.path / f"artifacts/{PLACE}/evaluation.log").read_text()
    assert "logits: block" in log
    assert "evaluate: layer" not in log  # fp and qdq have passed the layers
    row, ready = csv.DictReader((tree.path / "artifacts/report/summary.csv").open())
    place = row | {"context_length": f"ctx{row['context_length']}"}
    assert "/".join(list(place.values())[:6]) == PLACE
    assert (row["task"], row["device_graph"]) == ("tale", "kv")
    # A random model knows nothing of the text: each of 258 tokens is about as likely as another.
    bits = [float(row[f"{phase}_bits_per_byte"]) for phase in ("fp", "qdq", "device")]
    assert bits == pytest.approx([8.0] * 3, abs=0.5)
    assert bits[2] == pytest.approx(bits[1], rel=1e-3)
    for phase, content in (("qdq", qdq), ("device", device)):
        ratio = content["tasks"]["tale"]["word_perplexity"] / fp["tasks"]["tale"]["word_perplexity"]
        assert float(row[f"{phase}_perplexity_ratio"]) == pytest.approx(ratio)
        assert float(row[f"{phase}_sqnr_db"]) > 20
        assert 0 < float(row[f"{phase}_kl_divergence"]) < 0.01
    assert float(row["device_top1_agreement_qdq"]) >= float(row["device_top1_agreement"]) - 0.01
    assert float(row["device_top1_agreement_qdq"]) > 0.97
    of_program = {name: value for name, value in row.items() if name.removeprefix("device_") in device["tasks"]["tale"]}
    assert {name: value for name, value in ready.items() if name.startswith(("fp_", "qdq_")) and value} == {}
    assert {name: ready[name] for name in of_program} == of_program
    page = (tree.path / "artifacts/report/index.html").read_text()
    assert "<td>tale</td><td>word_perplexity</td>" in page
    assert tree.stale() == set()


def test_a_ready_program_is_compared_with_the_checkpoint_that_is_named(tree_with_figures):
    tree = tree_with_figures
    gate = "{tasks: [tale], limit: 2, max_perplexity_ratio: 1.5}"
    tree.edit("config.yaml", READY, READY.replace("tokenizer:", "checkpoint:").replace("{tasks: [tale]}", gate))
    where = "16a8w/ctx1024/SM8650-emulator/emulator/kv"
    done = tree.snakemake("evaluate", check=False)
    assert "its context has 32 tokens, and max_seq_len of models.ready is 1024: set 32" in done.stdout + done.stderr
    tree.edit("config.yaml", "pre_gen_pte: programs\n", "pre_gen_pte: programs\n    max_seq_len: 32\n")
    where = where.replace("1024", "32")
    assert tree.run("evaluate") >= {"evaluate_fp ready/32", f"check_ready_gates ready/{where.replace('ctx', '')}"}
    ours, theirs = (figures(tree, f"artifacts/{model}/{where}/evaluation.json") for model in ("a", "ready"))
    assert "top1_agreement_qdq" not in theirs
    for key in ("perplexity_ratio", "sqnr_db", "kl_divergence", "top1_agreement"):
        assert theirs[key] == ours[key]
    with (tree.path / "artifacts/report/summary.csv").open() as file:
        (ready,) = (row for row in csv.DictReader(file) if row["model"] == "ready")
    assert float(ready["fp_word_perplexity"]) > 0 and ready["qdq_word_perplexity"] == ""
    tree.edit("config.yaml", "max_perplexity_ratio: 1.5", "min_sqnr_db: 99")
    done = tree.snakemake("evaluate", check=False)
    assert done.returncode and "models.ready.evaluation.min_sqnr_db: " in done.stderr + done.stdout
