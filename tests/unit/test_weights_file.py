"""weights.safetensors: what is read is what was written, equal weights are equal files, and others' are refused."""

import documented
import pytest
import torch
from safetensors.torch import load_file, save_file

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.weights_file import save_weights, weights_of

Q, DOWN = "layers.0.attention.q_proj", "layers.1.feed_forward.down_proj"
OVERRIDES = [
    {"layers": "0", "points": "attention.q_proj", "seq_mse": 5},
    {"layers": "1", "points": "feed_forward.down_proj", "granularity": "per_block", "block_size": 32, "gptq": True},
]
RECIPE = recipe_from({"weight_bits": 4, "overrides": OVERRIDES}, "r")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    from small_models import random_model

    folder = tmp_path_factory.mktemp("llama")
    random_model("llama", num_hidden_layers=2, hidden_size=96, intermediate_size=64).save_pretrained(folder)
    return Checkpoint(folder)


@pytest.fixture
def weights() -> dict[str, CodedWeight]:
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (96, 64, 1, 1), generator=random, dtype=torch.int8)
    return {
        Q: CodedWeight(torch.rand(96, generator=random) + 0.1),
        DOWN: CodedWeight(torch.rand(96, 2, 1, 1, generator=random) + 0.1, codes),
    }


@pytest.fixture
def saved(checkpoint, weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, weights, recipe="r", checkpoint=sha256(checkpoint.path))
    return path


def test_what_is_read_is_what_was_written(checkpoint, weights, saved):
    found = weights_of(saved, checkpoint, RECIPE, "r")
    assert found.keys() == weights.keys()
    assert found.get("layers.0.attention.k_proj") is None
    assert torch.equal(found[Q].scales, weights[Q].scales)
    assert found[Q].codes is None
    assert torch.equal(found[DOWN].codes, weights[DOWN].codes)
    expected = weights[DOWN].codes.reshape(96, 2, 32) * weights[DOWN].scales.reshape(96, 2, 1)
    assert torch.equal(found[DOWN].values(), expected.reshape(96, 64, 1, 1))


def test_equal_weights_are_equal_files_that_others_may_read(checkpoint, weights, saved, tmp_path):
    again = tmp_path / "again.safetensors"
    save_weights(again, dict(reversed(weights.items())), recipe="r", checkpoint=sha256(checkpoint.path))
    assert again.read_bytes() == saved.read_bytes()
    documented.check(dict.fromkeys(load_file(saved)), "weights.safetensors")
    (tmp_path / "plain").touch()
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_recipe_without_algorithms_has_no_file_and_another_one_needs_it(checkpoint):
    assert weights_of(None, checkpoint, recipe_from({"weight_bits": 4}, "r")) == {}
    with pytest.raises(
        HexportError, match=r"codes the weights of layers\.0\.attention\.q_proj by calibration data; give"
    ):
        weights_of(None, checkpoint, RECIPE)


def shortened(tensors: dict) -> None:
    tensors[f"{Q}.scales"] = tensors[f"{Q}.scales"][:-1].clone()


FAULTS = {
    "no codes": (lambda tensors: tensors.pop(f"{DOWN}.codes"), f"{DOWN}.codes is missing"),
    "codes that are not asked for": (
        lambda tensors: tensors.update({f"{Q}.codes": torch.zeros(96, 96, 1, 1, dtype=torch.int8)}),
        f"{Q}.codes is not what the recipe asks for",
    ),
    "a projection of no model": (
        lambda tensors: tensors.update({"layers.7.x.scales": torch.ones(3)}),
        "layers.7.x.scales is not what the recipe asks for",
    ),
    "another length": (shortened, f"{Q}.scales is not what the recipe asks for"),
    "another type": (
        lambda tensors: tensors.update({f"{Q}.scales": tensors[f"{Q}.scales"].double()}),
        f"{Q}.scales is not what the recipe asks for",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_the_recipe_does_not_ask_for_are_refused(checkpoint, saved, fault):
    edit, named = FAULTS[fault]
    tensors, origin = load_file(saved), metadata(saved)
    edit(tensors)
    save_file(tensors, saved, origin)
    with pytest.raises(HexportError) as refusal:
        weights_of(saved, checkpoint, RECIPE)
    assert str(refusal.value).startswith(f"{saved}: {named}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_scales_that_are_no_positive_numbers_are_refused(checkpoint, weights, saved, scale):
    weights[Q].scales[3] = scale
    save_weights(saved, weights, recipe="r", checkpoint=sha256(checkpoint.path))
    with pytest.raises(HexportError, match=f"{Q}: scales are not all positive numbers"):
        weights_of(saved, checkpoint, RECIPE)[Q]


def test_weights_of_another_checkpoint_or_recipe_are_refused(checkpoint, weights, saved):
    with pytest.raises(HexportError, match="weights are of recipe 'r', not 'other'"):
        weights_of(saved, checkpoint, RECIPE, "other")
    save_weights(saved, weights, recipe="r", checkpoint="f" * 64)
    with pytest.raises(HexportError, match="weights are of another checkpoint"):
        weights_of(saved, checkpoint, RECIPE, "r")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 8 + b"{}"])
def test_what_is_no_such_file_is_refused_in_one_line(checkpoint, saved, content):
    saved.write_bytes(content)
    with pytest.raises(HexportError, match="no weights that hexport wrote") as refusal:
        weights_of(saved, checkpoint, RECIPE)
    assert "\n" not in str(refusal.value)


def metadata(path) -> dict:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()
