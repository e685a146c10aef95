"""Models with several recipes and context lengths: what is built of them, and what each part depends on."""

import json
from pathlib import Path

import pytest

from hexport.build import evaluations, lowering, matrix
from hexport.build.artifacts import Place, ProgramKey
from hexport.config.checks import check_config
from hexport.config.settings import Config, parse_config
from hexport.errors import HexportError

MODEL = {"checkpoint": "a.gguf", "prompts": ["hi"]}
RECIPES = {"narrow": {"based_on": "16a8w", "kv_bits": 8}, "small": {"based_on": "16a4w", "kv_bits": 8}}
DEVICES = "devices: {e: {kind: emulator, soc: SM8650}, old: {kind: emulator, soc: SM8450}}"
NEED = "16a8w has kv_bits 16, which need V73 or newer"
WHY = f"{NEED}; SM8450 is V69: set kv_bits: 8 in a recipe based on it, or remove SM8450 from socs"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(DEVICES)
    Path("a.gguf").touch()
    Path("tale.txt").touch()


def parse(*socs: str, **keys) -> Config:
    """A config of one model, m, with outputs in `out`."""
    document = {"artifacts": "out", "models": {"m": {**MODEL, **keys}}, "recipes": RECIPES}
    config = parse_config(document | {"tasks": {"tale": {"text": "tale.txt"}}, "socs": list(socs)}, "config.yaml")
    check_config(config, "config.yaml")
    return config


def faults(*socs: str, **keys) -> list[str]:
    with pytest.raises(HexportError) as error:
        parse(*socs, **keys)
    return [line.removeprefix("config.yaml: models.m.") for line in str(error.value).splitlines()]


def test_every_combination_is_built_from_one_calibration_per_recipe():
    config = parse("SM8650", recipe=["16a8w", "small"], max_seq_len=[64, 256], modes=["kv", "hybrid"])
    versions = [f"out/m/{recipe}/ctx{length}" for recipe in ("16a8w", "small") for length in (64, 256)]
    assert matrix.quant_attrs(config) == ["out/m/16a8w/quant_attrs.json", "out/m/small/quant_attrs.json"]
    assert matrix.programs(config) == [
        f"{version}/SM8650/{mode}_llama_qnn.pte" for version in versions for mode in ("kv", "hybrid")
    ]
    assert matrix.runs(config) == [
        f"{version}/SM8650-emulator/e/{mode}/result.json" for version in versions for mode in ("kv", "hybrid")
    ]
    assert list(matrix.left_out(config)) == []
    assert matrix.tokenizers(config) == ["out/m/tokenizer/tokenizer.json"]


def test_every_combination_is_evaluated_and_gated():
    evaluation = {"tasks": ["tale"], "min_sqnr_db": 20}
    config = parse("SM8650", recipe=["16a8w", "small"], max_seq_len=[64, 256], evaluation=evaluation)
    versions = [(recipe, f"ctx{length}") for recipe in ("16a8w", "small") for length in (64, 256)]
    assert evaluations.evaluations(config) == [
        "out/m/evaluation/ctx64/fp.json",
        "out/m/evaluation/ctx256/fp.json",
        *(f"out/m/{recipe}/evaluation/{context}/qdq.json" for recipe, context in versions),
        *(f"out/m/{recipe}/{context}/SM8650-emulator/e/kv/evaluation.json" for recipe, context in versions),
    ]
    assert evaluations.gates(config) == [
        f"out/m/{recipe}/evaluation/{context}/gates.json" for recipe, context in versions
    ]
    assert evaluations.float_model(config, "m", "small", 256)["fp"] == "out/m/evaluation/ctx256/fp.json"
    reported = json.loads(evaluations.report_settings(config))
    assert reported["evaluations"] == [[*run, ["fp", "qdq"]] for run in reported["runs"]]
    assert reported["runs"][1] == ["m", "16a8w", 256, "SM8650-emulator", "e", "kv"]


def test_a_recipe_that_a_soc_cannot_run_is_left_out_there():
    config = parse("SM8650", "SM8450", recipe=["16a8w", "narrow"], max_seq_len=64, evaluation={"tasks": ["tale"]})
    assert list(matrix.left_out(config)) == [f"recipe 16a8w of model m is left out for SM8450: {NEED}"]
    places = [("16a8w", "SM8650"), ("narrow", "SM8650"), ("narrow", "SM8450")]
    assert matrix.programs(config) == [f"out/m/{recipe}/ctx64/{soc}/kv_llama_qnn.pte" for recipe, soc in places]
    assert [(place.recipe, place.target) for place in matrix.run_places(config)] == [
        (recipe, f"{soc}-emulator") for recipe, soc in places
    ]
    assert len(matrix.quant_attrs(config)) == 2
    assert [file for file in evaluations.evaluations(config) if "SM8450" in file] == [
        "out/m/narrow/ctx64/SM8450-emulator/old/kv/evaluation.json"
    ]


def test_socs_may_be_named_by_their_architecture_or_be_all():
    assert parse("V75", "SM8750", max_seq_len=64).socs == ["SM8650", "SM8750"]
    assert parse("SXR2330P", "V79", max_seq_len=64).socs == ["SXR2330P", "SM8750"]
    document = {"models": {"m": {**MODEL, "recipe": ["16a8w", "narrow"]}}, "recipes": RECIPES, "socs": "all"}
    config = parse_config(document, "config.yaml")
    assert len(set(config.socs)) == 21
    (left_out,) = matrix.left_out(config)
    old = "SM8350, SA8295, QCM6490, SM8450, SM8475, SXR2230P"
    assert left_out == f"recipe 16a8w of model m is left out for {old}: {NEED}"
    assert len(matrix.programs(config)) == 15 + 21


def test_nothing_is_made_with_a_recipe_that_no_soc_can_run():
    config = parse("SM8450", recipe=["16a8w", "narrow"], max_seq_len=64, evaluation={"tasks": ["tale"]})
    assert len(list(matrix.left_out(config))) == 1
    made = [*matrix.quant_attrs(config), *matrix.programs(config), *evaluations.evaluations(config)]
    assert [file for file in made if "16a8w" in file] == []
    assert len(made) == 5


def test_a_soc_without_any_recipe_is_an_error():
    assert faults("SM8650", "SM8450", recipe="16a8w") == [f"recipe: {WHY}"]
    assert faults("SM8650", "SM8450", recipe=["16a8w"]) == [f"recipe: {WHY}"]
    assert faults("SM8450", recipe=["16a8w", "16a4w"]) == [f"recipe: {WHY}", f"recipe: {WHY.replace('16a8w', '16a4w')}"]


def test_lengths_fit_each_context():
    config = parse("SM8650", max_seq_len=[64, 1024], modes=["hybrid"])
    sizes = [config.models["m"].sizes(length) for length in (64, 1024)]
    assert [(of["prefill_ar_len"], of["seq_len"]) for of in sizes] == [(64, 64), (128, 128)]
    for length, prefill in ((64, 64), (1024, 128)):
        program = json.loads(lowering.program_settings(config, ProgramKey("m", "16a8w", length, "SM8650", "hybrid")))
        assert (program["max_seq_len"], program["prefill_ar_len"]) == (length, prefill)
        run = json.loads(matrix.run_settings(config, Place("m", "16a8w", length, "SM8650-emulator", "e", "hybrid")))
        assert run["seq_len"] == prefill
    given = parse("SM8650", max_seq_len=[1024, 64], prefill_ar_len=32, seq_len=48).models["m"]
    assert [given.sizes(length)["prefill_ar_len"] for length in (64, 1024)] == [32, 32]


def test_what_does_not_fit_the_smallest_context_is_an_error_that_names_it():
    assert faults("SM8650", max_seq_len=[1024, 64, 128], prefill_ar_len=100, seq_len=65) == [
        "prefill_ar_len: 100 is more than max_seq_len, 64",
        "seq_len: 65 is more than max_seq_len, 64",
    ]
    (line,) = faults("SM8650", max_seq_len=[1024, 32], modes=["lookahead"], ngram=3, window=8, gcap=8)
    assert line.startswith("ngram: a lookahead step of 32 tokens") and "less than max_seq_len, 32;" in line


def test_what_an_artifact_depends_on_is_the_same_alone_and_in_a_list():
    """So that adding a recipe or a context length to a list makes nothing stale."""
    one = parse("SM8650", max_seq_len=64, evaluation={"tasks": ["tale"]})
    both = parse("SM8650", recipe=["small", "16a8w"], max_seq_len=[256, 64.0], evaluation={"tasks": ["tale"]})
    place = Place("m", "16a8w", 64, "SM8650-emulator", "e", "kv")
    for settings, arguments in (
        (matrix.calibration_settings, ("m",)),
        (matrix.quant_attrs_settings, ("m", "16a8w")),
        (lowering.program_settings, (ProgramKey("m", "16a8w", 64, "SM8650", "kv"),)),
        (lowering.templates, (ProgramKey("m", "16a8w", 64, "SM8650", "kv"),)),
        (matrix.run_settings, (place,)),
        (evaluations.fp_settings, ("m", 64)),
        (evaluations.qdq_settings, ("m", "16a8w", 64)),
        (evaluations.device_settings, (place,)),
    ):
        assert settings(one, *arguments) == settings(both, *arguments)
    assert matrix.programs(one)[0] in matrix.programs(both)


def test_a_context_length_that_the_model_has_not_is_one_line():
    config = parse("SM8650", max_seq_len=[64, 256], evaluation={"tasks": ["tale"]})
    for settings, arguments in (
        (lowering.program_settings, (ProgramKey("m", "16a8w", 128, "SM8650", "kv"),)),
        (matrix.run_settings, (Place("m", "16a8w", 128, "SM8650-emulator", "e", "kv"),)),
        (evaluations.fp_settings, ("m", 128)),
    ):
        with pytest.raises(HexportError, match=r"^models\.m\.max_seq_len: is 64 and 256, and not 128; add it there$"):
            settings(config, *arguments)
