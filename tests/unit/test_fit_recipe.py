"""scripts/fit_recipe.py on a small model: its damages are those of the whole model, and its recipe is what it says."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from forks import FORKS
from small_models import random_model
from tiny_model import SCRIPTS, environment

from fit_recipe import main
from hexport.build.program_size import estimated_bytes
from hexport.config.settings import parse_config
from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.sizes import sizes_of
from hexport.decoder.stream import stream
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison
from hexport.fitting import damage
from hexport.fitting.choices import TABLE_UNIT, candidates
from hexport.progress import Progress
from hexport.quantization.prepared import weight_observer
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.weights import fake_quantised

pytestmark = [pytest.mark.usefixtures("qnn_sdk"), pytest.mark.slow]

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16, "num_hidden_layers": 2}
TOKENS = torch.randint(50, (800,), generator=torch.Generator().manual_seed(3)).tolist()
CODING, JUDGING = [TOKENS[:200]], [TOKENS[i : i + 50] for i in range(200, 800, 50)]
NARROW = {"weight_bits": 4, "granularity": "per_channel"}
CONFIG = """
devices: devices.yaml
recipes: {small: {based_on: 16a4w_block32, seq_mse: 5, gptq: true, tune_scales: 1}}
models: {tiny: {checkpoint: here, recipe: small, modes: [kv], max_seq_len: 64}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    random_model("llama", **SIZES).save_pretrained(folder / "artifacts/tiny/checkpoint")
    (folder / "devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def checkpoint(folder) -> Checkpoint:
    return Checkpoint(folder / "artifacts/tiny/checkpoint")


class Changed(Checkpoint):
    """One weight of a checkpoint is what its codes stand for."""

    def __init__(self, folder: Path, layer: int, projection: str, precision):
        super().__init__(folder)
        self.layer, self.name, self.precision = layer, f"{projection}.weight", precision

    def layer_parameters(self, layer: int) -> dict[str, torch.Tensor]:
        parameters = super().layer_parameters(layer)
        if layer == self.layer:
            parameters[self.name] = fake_quantised(weight_observer(self.precision), parameters[self.name])
        return parameters


def test_a_damage_is_about_what_the_divergence_of_the_whole_model_becomes(checkpoint, tmp_path, monkeypatch):
    recipe = recipe_from(NARROW, "narrow")
    units = candidates(recipe, sizes_of(checkpoint.config), in_blocks=True)
    found = damage.damages(checkpoint, units, CODING, JUDGING, tmp_path, Progress())
    assert found.keys() == units.keys()
    for (place, name), of_unit in found.items():
        if place in ("0", "1"):
            own, wide = units[place, name][:2]
            assert 0 < of_unit[wide] < of_unit[own] / 30  # a sixteenth of the step, squared
            assert of_unit[own] == pytest.approx(divergence(checkpoint, int(place), name, own), rel=0.4)
    wide, narrow = (found[TABLE_UNIT][precision] for precision in units[TABLE_UNIT])
    assert wide == 0 < narrow
    monkeypatch.delattr(damage, "_measure")  # all that is known is in the folder
    assert damage.damages(checkpoint, units, CODING, JUDGING, tmp_path, Progress()) == found


def divergence(checkpoint: Checkpoint, layer: int, projection: str, precision) -> float:
    changed = Changed(checkpoint.path.parent, layer, projection, precision)
    comparison = Comparison()
    decoders = [FloatDecoder(each, 64) for each in (checkpoint, changed)]
    stream(decoders, checkpoint.config, JUDGING, Progress(), lambda _, *logits: comparison.add(*logits))
    return comparison.as_json()["kl_divergence"]


def fit(*options: str):
    return CliRunner().invoke(main, ["tiny", *options])


def test_what_is_missing_or_wrong_is_one_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = fit("--size", "1MB")
    assert result.exit_code == 1
    path = "artifacts/tiny/calibration/tokens.json"
    assert result.stderr == f"error: {path}: missing; run `snakemake {path}` first\n"
    assert fit().stderr == "error: give one of --size and --max-perplexity-ratio\n"
    assert "'130' is no size; write it as 130MB or 1.2GB" in fit("--size", "130").stderr


def test_a_recipe_of_the_size_is_written_and_nothing_is_measured_twice(folder):
    tokens = {"source": {}, "samples": [*CODING, *JUDGING[:4]], "tokens": 400}
    (folder / "artifacts/tiny/calibration").mkdir()
    (folder / "artifacts/tiny/calibration/tokens.json").write_text(json.dumps(tokens))

    def fit_to_size() -> str:
        words = str(SCRIPTS / "fit_recipe.py"), "tiny", "--size", "0.06MB"
        done = FORKS.run(*words, cwd=folder, env=environment())
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()[-1]

    output = folder / "artifacts/tiny/small/fit/0.06MB.yaml"
    assert fit_to_size().startswith(f"{output.relative_to(folder)}: 0.1 MB, perplexity ratio ")
    assert "scales: step 1 of " in output.with_suffix(".log").read_text()  # measured as it is coded in the end
    content = yaml.safe_load(output.read_text())
    document = yaml.safe_load(CONFIG)
    document["recipes"]["fitted"] = content
    fitted = recipe_from(parse_config(document, "config.yaml").recipes["fitted"], "fitted")
    sizes = sizes_of(Checkpoint(folder / "artifacts/tiny/checkpoint").config)
    assert 0.055e6 < estimated_bytes(fitted, sizes, 64) <= 0.06e6
    measured = {file: file.stat().st_mtime_ns for file in output.parent.rglob("*.json")}
    assert len(measured) >= 4 + 3  # of each place, and of recipes: this one and the ends of the curve
    fit_to_size()
    assert {file: file.stat().st_mtime_ns for file in output.parent.rglob("*.json")} == measured
    assert yaml.safe_load(output.read_text()) == content
