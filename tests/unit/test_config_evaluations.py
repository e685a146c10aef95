"""What is evaluated, gated and reported, and which keys each of these files depends on."""

import json
from pathlib import Path

import pytest

from hexport.build import evaluations, lowering, matrix
from hexport.build.artifacts import Place, ProgramKey
from hexport.config.checks import check_config
from hexport.config.documents import read_yaml
from hexport.config.settings import Config, parse_config
from hexport.errors import HexportError

CONFIG = """
artifacts: out
socs: [SM8650]
tasks: {tale: {text: tale.txt}, other: {text: other.txt}, quiz: {yaml: quiz.yaml, trusted: true}}
models:
  built: {checkpoint: a.gguf, prompts: [hi], modes: [kv, hybrid], max_seq_len: 64, evaluation: {EVALUATION}}
  ready: {pre_gen_pte: ready, tokenizer: a.gguf, evaluation: {tasks: [piqa]}}
  plain: {checkpoint: a.gguf, prompts: [hi]}
"""
EVALUATION = "{tasks: [tale, piqa, quiz], limit: 3}"
DEVICES = "devices: {emulator: {kind: emulator, soc: SM8650}, phone: {kind: adb, serial: A1, soc: SM8650}}"
BUILT = Place("built", "16a8w", 64, "SM8650-emulator", "emulator", "hybrid")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(DEVICES)
    Path("ready").mkdir()
    for file in ("a.gguf", "tale.txt", "other.txt", "quiz.yaml", "ready/kv_llama_qnn.pte"):
        Path(file).write_text("")


def config(evaluation: str = EVALUATION) -> Config:
    Path("config.yaml").write_text(CONFIG.replace("{EVALUATION}", evaluation))
    parsed = parse_config(read_yaml(Path("config.yaml")), "config.yaml")
    check_config(parsed, "config.yaml")
    return parsed


def settings(text: str) -> dict:
    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)
    return json.loads(text)


def test_what_is_evaluated():
    """Of a ready program, there is no float model; the phone lacks a runner."""
    assert evaluations.evaluations(config()) == [
        "out/built/evaluation/ctx64/fp.json",
        "out/built/16a8w/evaluation/ctx64/qdq.json",
        "out/built/16a8w/ctx64/SM8650-emulator/emulator/kv/evaluation.json",
        "out/built/16a8w/ctx64/SM8650-emulator/emulator/hybrid/evaluation.json",
        "out/ready/16a8w/ctx1024/SM8650-emulator/emulator/kv/evaluation.json",
    ]
    assert evaluations.reports(config()) == ["out/report/index.html", "out/report/summary.csv"]
    assert evaluations.evaluation_files(config(), "built") == ["tale.txt", "quiz.yaml"]
    assert evaluations.task_options(config(), "built") == ["--local", "tale=tale.txt"]
    assert evaluations.float_model(config(), "ready", "16a8w", 1024) == {}


def test_settings_are_what_an_evaluation_depends_on():
    trusted = {"quiz": "quiz.yaml"}
    data = {"tasks": ["tale", "piqa", "quiz"], "limit": 3, "num_fewshot": None, "trusted": trusted}
    spec = config().recipes["16a8w"]
    assert settings(evaluations.fp_settings(config(), "built", 64)) == {**data, "max_seq_len": 64}
    assert settings(evaluations.qdq_settings(config(), "built", "16a8w", 64)) == {
        **data,
        "max_seq_len": 64,
        "recipe": "16a8w",
        "recipe_spec": spec,
    }
    assert settings(evaluations.device_settings(config(), BUILT)) == {
        **data,
        "model": "built",
        "recipe": "16a8w",
        "recipe_spec": spec,
        "target": "SM8650-emulator",
        "mode": "hybrid",
        "graph": "prefill",
        "versions": matrix.toolchain_versions(),
    }


@pytest.mark.parametrize(
    ("graph", "mode", "expected"),
    [("prefill", "hybrid", "prefill"), ("kv", "hybrid", "kv"), ("prefill", "kv", "kv"), ("kv", "kv", "kv")],
)
def test_the_graph_to_score_by(graph, mode, expected):
    found = evaluations.device_settings(config(f"{{tasks: [tale], graph: {graph}}}"), BUILT._replace(mode=mode))
    assert json.loads(found)["graph"] == expected


def test_gates():
    assert evaluations.gates(config()) == []
    for gate in ("max_perplexity_ratio: 1.1", "min_sqnr_db: 0", "min_sqnr_db: 20, max_perplexity_ratio: 1"):
        gated = config(f"{{tasks: [tale], {gate}}}")
        assert evaluations.gates(gated) == ["out/built/16a8w/evaluation/ctx64/gates.json"]
        assert settings(evaluations.gate_settings(gated, "built")) == {"model": "built", **read_gates(gate)}
        ungated = config("{tasks: [tale]}")
        assert evaluations.fp_settings(gated, "built", 64) == evaluations.fp_settings(ungated, "built", 64)
        assert evaluations.gate(gated, "plain", "16a8w", 1024) == []


def read_gates(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in (gate.split(": ") for gate in text.split(", "))}


def test_a_program_is_built_alike_whatever_is_evaluated():
    gated = config("{tasks: [piqa], limit: 7, min_sqnr_db: 20}")
    for of in (config(), gated):
        program = ProgramKey("built", "16a8w", 64, "SM8650", "kv")
        assert lowering.program_settings(of, program) == lowering.program_settings(config("null"), program)


def test_what_cannot_be_evaluated_is_one_line():
    with pytest.raises(HexportError, match=r"^models.plain.evaluation: missing, so there is nothing to evaluate"):
        evaluations.fp_settings(config(), "plain", 1024)
    with pytest.raises(HexportError, match=r"^models.built.evaluation: no gate is set; set max_perplexity_ratio or"):
        evaluations.gate_settings(config(), "built")
    with pytest.raises(HexportError, match=r"^device phone: build_path is missing"):
        evaluations.device_settings(config(), BUILT._replace(device="phone", target="SM8650"))


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ("{tasks: [tale], max_perplexity_ratio: 0.9}", "max_perplexity_ratio: must be 1 or more, got 0.9"),
        ("{tasks: [tale], max_perplexity_ratio: .nan}", "max_perplexity_ratio: expected a finite number, got nan"),
        ("{tasks: [tale], min_sqnr_db: .inf}", "min_sqnr_db: expected a finite number, got inf"),
        ("{tasks: [tale], min_sqnr_db: high}", "min_sqnr_db: expected a number, got 'high'"),
        ("{tasks: [tale], graph: decode}", "graph: unknown value 'decode'; known: prefill, kv"),
        ("{tasks: [tale], max_ppl_ratio: 2}", "max_ppl_ratio: unknown key; did you mean max_perplexity_ratio?"),
        ("{tasks: [tale, piqa, tale]}", "tasks: tale is there twice"),
    ],
)
def test_a_fault_is_one_line(evaluation, expected):
    with pytest.raises(HexportError) as error:
        config(evaluation)
    assert str(error.value) == f"config.yaml: models.built.evaluation.{expected}"


def test_gates_need_the_float_model():
    text = CONFIG.replace("tasks: [piqa]", "tasks: [piqa], min_sqnr_db: 20").replace("{EVALUATION}", EVALUATION)
    Path("config.yaml").write_text(text)
    with pytest.raises(HexportError) as error:
        check_config(parse_config(read_yaml(Path("config.yaml")), "config.yaml"), "config.yaml")
    assert str(error.value) == (
        "config.yaml: models.ready.evaluation.min_sqnr_db: compares with the float model, of which the programs of "
        "pre_gen_pte know nothing; remove it, or name their checkpoint"
    )
