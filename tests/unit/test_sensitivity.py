"""Sensitivity: gains equal those of the whole model with one part changed, and the suggestions are a recipe."""

import json
from dataclasses import replace

import documented
import pytest
import torch
import yaml
from click.testing import CliRunner
from small_models import random_model

from hexport.config.settings import parse_config
from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.stream import stream
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison
from hexport.evaluation.qdq import FakeQuantisedDecoder
from hexport.evaluation.sensitivity import TOKENS, WORTH_DB, Gain, Sensitivity, overrides_yaml
from hexport.file_hashes import sha256
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.quant_attrs import QuantAttrs, load_quant_attrs, save_quant_attrs
from hexport.quantization.recipe import LAYER_PROJECTIONS
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.weight_search import search
from hexport.quantization.weights_file import save_weights, weights_of
from sensitivity import main

pytestmark = [pytest.mark.usefixtures("qnn_sdk"), pytest.mark.slow]

N_LAYERS = 2
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "head_dim": 16,
}  # blocks: multiples of 32
TOKEN_IDS = torch.randint(50, (200,), generator=torch.Generator().manual_seed(3)).tolist()
SAMPLES = [TOKEN_IDS[:75], TOKEN_IDS[75:150], TOKEN_IDS[150:]]
NARROW = {
    "weight_bits": 4,
    "granularity": "per_block",
    "block_size": 8,
    "kv_bits": 8,
    "overrides": [
        {"layers": "1", "points": "feed_forward", "weight_bits": 8, "granularity": "per_channel"},
        {"layers": "1", "points": "attention.v_proj", "seq_mse": 10},
    ],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoint")
    random_model("llama", num_hidden_layers=N_LAYERS, **SIZES).save_pretrained(folder)
    return Checkpoint(folder)


@pytest.fixture(scope="module")
def attrs(checkpoint, qnn_sdk, tmp_path_factory) -> QuantAttrs:
    recipe = recipe_from(NARROW, "narrow")
    weights = search(checkpoint, SAMPLES, recipe, Progress(), tmp_path_factory.mktemp("weights"))
    return calibrate(checkpoint, SAMPLES, recipe, Progress(), weights)


@pytest.fixture(scope="module")
def folder(checkpoint, attrs, tmp_path_factory):
    """Where the script has written."""
    folder = tmp_path_factory.mktemp("narrow")
    facts = {"model": "m", "recipe": "narrow", "checkpoint": sha256(checkpoint.path), "calibration": {}}
    tokens = {"source": {}, "samples": SAMPLES, "tokens": sum(map(len, SAMPLES))}
    save_quant_attrs(folder / "quant_attrs.json", attrs, **facts)
    save_weights(folder / "weights.safetensors", attrs.weights, recipe="narrow", checkpoint=facts["checkpoint"])
    (folder / "tokens.json").write_text(json.dumps(tokens))
    paths = {
        "--checkpoint": checkpoint.path,
        "--tokens": folder / "tokens.json",
        "--quant-attrs": folder / "quant_attrs.json",
        "--weights": folder / "weights.safetensors",
        "--output": folder / "sensitivity.yaml",
    }
    settings = json.dumps({"model": "m", "recipe": "narrow", "recipe_spec": NARROW})
    options = [str(word) for option in paths.items() for word in option]
    result = CliRunner().invoke(main, ["--settings", "-", *options], input=settings, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def table(folder) -> dict:
    return json.loads((folder / "sensitivity.json").read_text())


@pytest.fixture(scope="module")
def base_db(checkpoint, attrs) -> float:
    return sqnr_db(checkpoint, attrs, NARROW)


def first_tokens() -> list[list[int]]:
    return [SAMPLES[0], SAMPLES[1][: TOKENS - len(SAMPLES[0])]]


def sqnr_db(checkpoint: Checkpoint, attrs: QuantAttrs, spec: dict) -> float:
    """Of the whole model's logits on the tokens that the gains are measured on."""
    decoders = FloatDecoder(checkpoint, TOKENS), FakeQuantisedDecoder(checkpoint, attrs, recipe_from(spec, "r"), TOKENS)
    comparison = Comparison()
    stream(decoders, checkpoint.config, first_tokens(), Progress(), lambda _, *logits: comparison.add(*logits))
    return comparison.as_json()["sqnr_db"]


def with_override(**override) -> dict:
    return {**NARROW, "overrides": [*NARROW["overrides"], override]}


def test_every_part_that_could_have_more_bits_is_tried(table):
    tried = {(gain["place"], gain["projection"]) for gain in table["weights"]}
    assert tried == {
        *(("0", name) for name in LAYER_PROJECTIONS),
        *(("1", name) for name in LAYER_PROJECTIONS if name.startswith("attention")),
        ("epilogue", "output"),
    }
    assert len(table["weights"]) == len(tried)
    assert len(table["kv"]) == N_LAYERS
    gains = [gain["gain_db"] for gain in table["weights"]]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0.2


def test_the_base_is_the_recipe_as_it_is(base_db, table):
    assert table["sqnr_db"] == pytest.approx(base_db, abs=1e-3)
    assert table["tokens"] == TOKENS


@pytest.mark.parametrize(
    ("place", "projection"), [("0", "feed_forward.up_proj"), ("1", "attention.v_proj"), ("epilogue", "output")]
)
def test_a_gain_is_that_of_the_whole_model_with_this_weight_changed(
    checkpoint, attrs, base_db, table, place, projection
):
    spec = with_override(layers=place, points=projection, weight_bits=8, granularity="per_channel", seq_mse=0)
    weights = {name: found for name, found in attrs.weights.items() if name != f"layers.{place}.{projection}"}
    after = sqnr_db(checkpoint, replace(attrs, weights=weights), spec)
    [gain] = [gain for gain in table["weights"] if (gain["place"], gain["projection"]) == (place, projection)]
    assert gain["gain_db"] == pytest.approx(after - base_db, abs=1e-3)
    parameters = checkpoint.epilogue_parameters() if place == "epilogue" else checkpoint.layer_parameters(int(place))
    assert gain["extra_bytes"] == parameters[f"{projection}.weight"].numel() / 2


def test_the_gain_of_wide_caches_is_that_of_the_recipe_with_16_bits(checkpoint, attrs, base_db, table):
    spec = {**NARROW, "kv_bits": 16}
    wide = calibrate(checkpoint, SAMPLES, recipe_from(spec, "r"), Progress(), attrs.weights)
    gain = sqnr_db(checkpoint, wide, spec) - base_db
    assert table["kv_in_all_layers"] == pytest.approx(gain, abs=1e-3)
    assert len({round(gain, 6) for gain in table["kv"]}) == N_LAYERS


def test_the_suggestions_make_a_better_recipe(checkpoint, attrs, folder, table):
    suggested = yaml.safe_load((folder / "sensitivity.yaml").read_text())
    worth = [gain for gain in table["weights"] if gain["gain_db"] >= WORTH_DB]
    assert [(entry["layers"], entry["points"]) for entry in suggested["overrides"]] == [
        (gain["place"], gain["projection"]) for gain in worth
    ]
    better = {**NARROW, **suggested, "kv_bits": 8, "overrides": [*NARROW["overrides"], *suggested["overrides"]]}
    gain = sqnr_db(checkpoint, replace(attrs, weights={}), better) - table["sqnr_db"]
    assert gain > table["weights"][0]["gain_db"]


def test_the_file_fits_into_config_yaml(folder, tmp_path, monkeypatch):
    found = Sensitivity(
        9.5,
        TOKENS,
        [Gain("11", "feed_forward.down_proj", 1.25, 442368), Gain("epilogue", "output", 0.4, 10)],
        kv=[0.1],
        kv_in_all_layers=0.7,
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}\n")
    for text in (overrides_yaml(found, "m", "16a8w"), (folder / "sensitivity.yaml").read_text()):
        recipe = {"based_on": "16a8w", **yaml.safe_load(text)}
        config = parse_config({"models": {"smollm2_135m": None}, "recipes": {"better": recipe}}, "config.yaml")
        resolved = config.recipes["better"]
        assert resolved["overrides"] == recipe["overrides"]
        recipe_from(resolved, "better")
    suggested = yaml.safe_load(overrides_yaml(found, "m", "16a8w"))
    assert suggested["kv_bits"] == 16
    assert "# +1.25 dB, +0.4 MB" in overrides_yaml(found, "m", "16a8w")


def test_what_has_8_bits_throughout_is_left_as_it_is():
    text = overrides_yaml(Sensitivity(40.0, TOKENS, []), "m", "16a8w")
    assert yaml.safe_load(text) == {"overrides": []}


def test_the_files_that_were_written_are_read(checkpoint, folder, attrs):
    assert load_quant_attrs(folder / "quant_attrs.json").activations == attrs.activations
    found = weights_of(folder / "weights.safetensors", checkpoint, recipe_from(NARROW, "narrow"))
    assert found.keys() == attrs.weights.keys() == {"layers.1.attention.v_proj"}
    documented.check(json.loads((folder / "sensitivity.json").read_text()), "sensitivity.json")
    manifest = json.loads((folder / "sensitivity.yaml.manifest.json").read_text())
    files = {"model.safetensors", "config.json", "tokens.json", "quant_attrs.json", "weights.safetensors"}
    assert manifest["inputs"].keys() == files
    assert (folder / "sensitivity.json.manifest.json").is_file()
