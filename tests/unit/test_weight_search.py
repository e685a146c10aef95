"""Weights that are coded by calibration data: outputs of projections err less than with the nearest codes of min-max
ranges, by transformers' own activations; resuming."""

import shutil
from collections import defaultdict

import pytest
import torch
from small_models import random_model

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.provenance import manifest_path
from hexport.quantization import seq_mse, vocabulary
from hexport.quantization.calibration import prepare_layer
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.recipe import LAYER_PROJECTIONS
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.seq_mse import LOWEST
from hexport.quantization.weight_search import coded_weight, search
from hexport.quantization.weights import channel_scales, fake_quantised, weight_encoding

pytestmark = [pytest.mark.usefixtures("qnn_sdk"), pytest.mark.slow]

CANDIDATES, N_LAYERS = 20, 3
SAMPLES = [[5, 49, 0, 17, 17, 3, 44, 8, 21, 30, 2, 9, 13], [7], [48, 1, 6, 33, 12, 12, 40]]
PER_CHANNEL = {"weight_bits": 4, "granularity": "per_channel", "seq_mse": CANDIDATES}
PER_BLOCK = {"weight_bits": 4, "granularity": "per_block", "block_size": 16, "seq_mse": CANDIDATES}


@pytest.fixture(scope="module")
def model():
    """Every weight matrix has a few weights far larger than the others, some in columns that the data hardly use."""
    model = random_model("llama", num_hidden_layers=N_LAYERS, hidden_size=96, intermediate_size=64)
    random = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight") or name == "lm_head.weight":
            parameter[torch.rand(parameter.shape, generator=random) < 0.02] *= 6
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return Checkpoint(folder)


RECIPES = {
    "per_channel": PER_CHANNEL,
    "per_block": PER_BLOCK,
    "gptq per_channel": {**PER_CHANNEL, "gptq": True},
    "gptq per_block": {**PER_BLOCK, "gptq": True},
}


@pytest.fixture(scope="module", params=RECIPES)
def searched(request, checkpoint, tmp_path_factory):
    """A recipe, what the search finds for it, and the folder of its files."""
    recipe, folder = recipe_from(RECIPES[request.param], "r"), tmp_path_factory.mktemp("weights")
    return recipe, search(checkpoint, SAMPLES, recipe, Progress(), folder), folder


@pytest.fixture(scope="module")
def inputs(model) -> dict[str, torch.Tensor]:
    """Projection -> what transformers' model in float64 feeds it, (tokens, in)."""
    from copy import deepcopy

    double, seen = deepcopy(model).double(), defaultdict(list)
    for name, module in double.named_modules():
        if name.endswith("_proj") or name == "lm_head":
            module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0][0]))
    with torch.no_grad():
        for sample in SAMPLES:
            double(torch.tensor([sample]))
    names = {"model.": "", "self_attn": "attention", "mlp": "feed_forward", "lm_head": "epilogue.output"}
    renamed = {}
    for name, parts in seen.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = torch.cat(parts)
    return renamed


def output_errors(weight: torch.Tensor, coded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared error of each output channel, summed over tokens, in float64."""
    return (x @ (weight.double() - coded.double()).flatten(1).T).square().sum(0)


def same(found: dict, expected: dict) -> bool:
    """Whether coded weights are equal to the bit."""
    return found.keys() == expected.keys() and all(
        torch.equal(found[name].scales, expected[name].scales)
        and (found[name].codes is None) == (expected[name].codes is None)
        and (found[name].codes is None or torch.equal(found[name].codes, expected[name].codes))
        for name in found
    )


def reductions(checkpoint, recipe, coded, inputs) -> list[float]:
    """Of each projection, the squared error of its output in relation to that with nearest codes of min-max ranges."""
    observers, found = prepare_layer(checkpoint.config, 0, 8, 8, recipe).weights, []
    for i in range(N_LAYERS):
        for name in LAYER_PROJECTIONS:
            weight, x = checkpoint.layer_parameters(i)[f"{name}.weight"], inputs[f"layers.{i}.{name}"]
            own, min_max = (
                output_errors(weight, fake_quantised(observers[f"{name}.weight"], weight, way), x)
                for way in (coded[f"layers.{i}.{name}"], None)
            )
            if not recipe.precision.gptq:
                assert (own <= min_max * (1 + 1e-4)).all()
            found.append(float(own.sum() / min_max.sum()))
    return found


def test_all_channels_together_err_much_less_than_with_min_max_and_without_gptq_none_errs_more(
    checkpoint, searched, inputs
):
    recipe, coded, _ = searched
    projections = {f"layers.{i}.{name}" for i in range(N_LAYERS) for name in LAYER_PROJECTIONS}
    assert coded.keys() == {*projections, "epilogue.output"}
    found = reductions(checkpoint, recipe, coded, inputs)
    assert max(found) < 0.97
    assert sum(found) / len(found) < (0.5 if recipe.precision.gptq else 0.85)


def test_gptq_errs_much_less_than_the_nearest_codes_of_its_own_scales(checkpoint, inputs, searched):
    recipe, coded, _ = searched
    observer = prepare_layer(checkpoint.config, 0, 8, 8, recipe).weights["feed_forward.up_proj.weight"]
    name = "feed_forward.up_proj"
    weight, x = checkpoint.layer_parameters(0)[f"{name}.weight"], inputs[f"layers.0.{name}"]
    found = coded[f"layers.0.{name}"]
    assert (found.codes is not None) == recipe.precision.gptq
    if not recipe.precision.gptq:
        return
    assert (found.codes.dtype, found.codes.shape) == (torch.int8, weight.shape)
    assert observer.quant_min <= int(found.codes.min()) < int(found.codes.max()) <= observer.quant_max
    nearest = fake_quantised(observer, weight, CodedWeight(found.scales))
    assert output_errors(weight, found.values(), x).sum() < 0.5 * output_errors(weight, nearest, x).sum()


def test_block_scales_of_gptq_are_what_the_block_wise_expansion_of_qnn_holds(checkpoint, tmp_path):
    """An integer of 1 to 16 for each block, times one float32 scale per channel."""
    recipe = recipe_from(
        {**PER_BLOCK, "gptq": True, "overrides": [{"layers": "[12e]*", "seq_mse": 0, "gptq": False}]}, "r"
    )
    observers = prepare_layer(checkpoint.config, 0, 8, 8, recipe).weights
    for name, coded in search(checkpoint, SAMPLES, recipe, Progress(), tmp_path).items():
        units = channel_scales(observers[name.removeprefix("layers.0.") + ".weight"], coded.scales)
        multiples = coded.scales.reshape(len(units), -1) / units[:, None]
        torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-4)
        assert int(multiples.round().min()) >= 1
        assert int(multiples.round().max()) == 16
        assert len(multiples.round().unique()) > 4


def test_gptq_fits_a_layer_to_what_the_coded_layers_before_leave(checkpoint, tmp_path):
    """Other weights in layer 0 change what layer 1 is coded as; without GPTQ there, they would not."""

    def ask(**of_layer_0):
        overrides = [{"layers": "0", **of_layer_0}, {"layers": "1", "points": "attention.q_proj", "gptq": True}]
        return recipe_from({**PER_CHANNEL, "seq_mse": 0, "overrides": overrides}, "r")

    seen = search(checkpoint, SAMPLES, ask(seq_mse=CANDIDATES), Progress(), tmp_path)["layers.1.attention.q_proj"]
    plain = search(checkpoint, SAMPLES, ask(seq_mse=0), Progress(), tmp_path)["layers.1.attention.q_proj"]
    assert not torch.equal(seen.codes, plain.codes)


def test_the_best_candidate_of_each_channel_is_found(checkpoint, inputs, tmp_path):
    """By trying all of them in float64, with codes computed here."""
    recipe = recipe_from(PER_CHANNEL | {"seq_mse": 0, "overrides": [{"layers": "2", "seq_mse": CANDIDATES}]}, "r")
    found, observers = (
        search(checkpoint, SAMPLES, recipe, Progress(), tmp_path),
        prepare_layer(checkpoint.config, 2, 8, 8, recipe).weights,
    )
    for name in LAYER_PROJECTIONS:
        weight = checkpoint.layer_parameters(2)[f"{name}.weight"].flatten(1).double()

        def errors(ratio, weight=weight, x=inputs[f"layers.2.{name}"]):
            scale = ratio * weight.abs().amax(1, keepdim=True) / 7
            return output_errors(weight, (weight / scale).round().clamp(-7, 7) * scale, x)

        grid = [k / CANDIDATES for k in range(1, CANDIDATES + 1) if k / CANDIDATES >= LOWEST]
        best = torch.stack([errors(ratio) for ratio in grid]).amin(0)
        scales = found[f"layers.2.{name}"].scales
        min_max, _ = weight_encoding(observers[f"{name}.weight"], weight[:, :, None, None].float())
        chosen = scales / min_max
        assert scales.dtype == torch.float32
        torch.testing.assert_close(chosen * CANDIDATES, (chosen * CANDIDATES).round(), rtol=0, atol=1e-3)
        assert (errors(chosen.double()[:, None]) <= best * (1 + 1e-3)).all()


def test_gptq_refuses_inputs_that_are_no_numbers(checkpoint):
    recipe = recipe_from({**PER_CHANNEL, "gptq": True}, "r")
    weight = checkpoint.layer_parameters(0)["feed_forward.down_proj.weight"]
    with pytest.raises(HexportError, match=r"inputs of layers\.0\.x are not finite on the calibration data; check"):
        coded_weight("layers.0.x", weight, torch.full((64, 64), torch.nan), recipe.precision)


def test_only_what_the_recipe_names_is_searched(checkpoint, tmp_path):
    overrides = [
        {"layers": "1", "points": "feed_forward.*_proj", "seq_mse": CANDIDATES},
        {"layers": "1", "points": "feed_forward.up_proj", "seq_mse": 0},
        {"layers": "epilogue", "points": "output", "seq_mse": CANDIDATES},
    ]
    recipe = recipe_from({**PER_CHANNEL, "seq_mse": 0, "overrides": overrides}, "r")
    coded = search(checkpoint, SAMPLES, recipe, Progress(), tmp_path)
    assert coded.keys() == {"layers.1.feed_forward.gate_proj", "layers.1.feed_forward.down_proj", "epilogue.output"}
    assert coded["epilogue.output"].scales.shape == (checkpoint.config.vocab_size,)


@pytest.mark.parametrize("precision", RECIPES.values(), ids=RECIPES)
def test_blocks_of_the_head_give_what_the_whole_gives(tmp_path, monkeypatch, precision):
    sizes = {"vocab_size": 300, "hidden_size": 96, "intermediate_size": 96}  # which blocks divide
    random_model("llama", num_hidden_layers=1, **sizes).save_pretrained(tmp_path / "model")
    checkpoint, samples = Checkpoint(tmp_path / "model"), [[5, 299, 0, 17], [130], [64, 63, 1, 255, 256, 6]]
    few = {**precision, "seq_mse": 4, "overrides": [{"layers": "0", "seq_mse": 0, "gptq": False}]}
    recipe = recipe_from(few, "r")
    monkeypatch.setattr(seq_mse, "CHUNK", 1)
    whole = search(checkpoint, samples, recipe, Progress(), tmp_path / "whole")
    monkeypatch.setattr(vocabulary, "BLOCK_VALUES", 1)
    by_block = search(checkpoint, samples, recipe, Progress(tmp_path / "log"), tmp_path / "by_block")
    assert by_block.keys() == whole.keys() == {"epilogue.output"}
    assert same(by_block, whole)
    log = (tmp_path / "log").read_text()
    assert all(f"weights: head: block {i} of 5" in log for i in range(1, 6))


def test_a_second_search_reads_what_the_first_has_found(checkpoint, searched, tmp_path):
    recipe, coded, folder = searched
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = search(checkpoint, SAMPLES, recipe, Progress(tmp_path / "log"), folder)
    assert same(again, coded)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    log = (tmp_path / "log").read_text()
    assert f"{N_LAYERS + 1} of {N_LAYERS + 1} layers found" in log
    assert "layer 1 of" not in log


def test_a_search_that_was_killed_goes_on_where_it_was(checkpoint, searched, tmp_path):
    recipe, coded, _ = searched
    folder = tmp_path / "weights"

    class Killed(Progress):
        def steps(self, items, name, *args, **kwargs):
            for number, item in enumerate(super().steps(items, name, *args, **kwargs)):
                if name == "weights" and number == 2:
                    raise KeyboardInterrupt
                yield item

    with pytest.raises(KeyboardInterrupt):
        search(checkpoint, SAMPLES, recipe, Killed(), folder)
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}
    assert len(kept) == 2
    resumed = search(checkpoint, SAMPLES, recipe, Progress(tmp_path / "log"), folder)
    assert same(resumed, coded)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert f"2 of {N_LAYERS + 1} layers found" in (tmp_path / "log").read_text()


def test_damaged_weights_are_searched_for_again(checkpoint, searched, tmp_path):
    recipe, coded, found = searched
    folder = tmp_path / "weights"
    shutil.copytree(found, folder)
    flipped, *_, unmanifested = sorted(folder.glob("*.safetensors"))
    data = flipped.read_bytes()
    flipped.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    manifest_path(unmanifested).unlink()
    again = search(checkpoint, SAMPLES, recipe, Progress(tmp_path / "log"), folder)
    assert same(again, coded)
    assert flipped.read_bytes() == data
    assert f"{N_LAYERS - 1} of {N_LAYERS + 1} layers found" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("change", ["samples", "candidates"])
def test_weights_of_another_search_are_not_used_and_go(checkpoint, tmp_path, change):
    def ask(candidates):
        return recipe_from({**PER_CHANNEL, "seq_mse": 0, "overrides": [{"layers": "0", "seq_mse": candidates}]}, "r")

    before = search(checkpoint, SAMPLES, ask(10), Progress(), tmp_path)
    files = set(tmp_path.iterdir())
    samples, candidates = (SAMPLES[::2], 10) if change == "samples" else (SAMPLES, 7)
    after = search(checkpoint, samples, ask(candidates), Progress(), tmp_path)
    assert not same(before, after)
    assert len(files) == len(set(tmp_path.iterdir())) == 2  # with its manifest
    assert not files & set(tmp_path.iterdir())
