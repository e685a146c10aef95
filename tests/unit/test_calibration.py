"""Layer-by-layer calibration: equal to the whole prepared graph's, and true to what the float decoder computes."""

import math
import re

import pytest
import torch
from plain_flow import calibrate_plain
from whole_decoder import causal_masks, empty_caches, load_decoder

from hexport.decoder.basis import Basis
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.quantization import vocabulary
from hexport.quantization.calibration import calibrate, token_inputs
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.quant_attrs import Encoding, save_quant_attrs
from hexport.quantization.recipe_checks import recipe_from

pytestmark = [pytest.mark.usefixtures("qnn_sdk"), pytest.mark.slow]

VOCABULARY, N_LAYERS = 60, 3
SAMPLES = [[5, 59, 0, 17, 17, 3, 44, 8, 21, 30, 2, 9, 13], [7], [58, 1, 6, 33]]


def save_model(folder, change=lambda model: None, **sizes):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": N_LAYERS, **sizes}
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCABULARY, **sizes}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=None))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        change(model)
    model.save_pretrained(folder)
    return Checkpoint(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def recipe():
    return recipe_from({}, "16a8w")


@pytest.fixture(scope="module")
def attrs(checkpoint, recipe):
    return calibrate(checkpoint, SAMPLES, recipe, Progress())


def encoding_of(*values: torch.Tensor) -> Encoding:
    """16-bit codes over all values and zero."""
    low = min(0.0, *(float(value.min()) for value in values))
    high = max(0.0, *(float(value.max()) for value in values))
    return Encoding((high - low) / 65535, round(-low / (high - low) * 65535), 0, 65535)


def test_every_point_equals_the_whole_graphs(checkpoint, recipe, attrs):
    whole = calibrate_plain(checkpoint, SAMPLES, recipe)
    assert attrs.activations.keys() == whole.activations.keys()
    assert [p for p in attrs.activations if attrs.activations[p] != whole.activations[p]] == []
    assert attrs == whole


def test_every_point_equals_the_whole_graphs_with_all_that_a_recipe_may_ask_for(checkpoint):
    overrides = [
        {"layers": "0", "points": "feed_forward", "activation_bits": 8, "activation_symmetric": True},
        {"layers": "[12]", "points": "attention.q_rope", "observer": "percentile"},
    ]
    keys = {"kv_bits": 8, "r3": True, "masked_softmax": True, "observer": "mse", "overrides": overrides}
    mixed = recipe_from(keys | {"embedding_bits": 8}, "r")
    checkpoint = Checkpoint(checkpoint.path.parent, Basis(row_scales=True))
    attrs = calibrate(checkpoint, SAMPLES, mixed, Progress())
    assert attrs == calibrate_plain(checkpoint, SAMPLES, mixed)
    bits = {point: encoding.bits for point, encoding in attrs.activations.items()}
    assert bits["layers.0.feed_forward.gate_proj.conv2d"] == 8
    assert bits["layers.1.feed_forward.gate_proj.conv2d"] == bits["layers.0.add_1"] == 16
    assert {(encoding.bits, encoding.zero_point) for layer in attrs.kv for encoding in layer.values()} == {(8, 128)}


def test_the_decoder_computes_with_coded_weights(checkpoint, recipe, attrs):
    shapes = {
        "layers.1.attention.v_proj": checkpoint.layer_parameters(1)["attention.v_proj.weight"].shape,
        "epilogue.output": checkpoint.epilogue_parameters()["output.weight"].shape,
    }
    weights = {
        name: CodedWeight(torch.full(shape[:1], 0.01), torch.randint(-7, 8, shape, dtype=torch.int8))
        for name, shape in shapes.items()
    }
    coded = calibrate(checkpoint, SAMPLES, recipe, Progress(), weights)
    assert coded == calibrate_plain(checkpoint, SAMPLES, recipe, weights)
    assert coded.encoding("layers.0.add_1") == attrs.encoding("layers.0.add_1")
    assert coded.encoding("layers.1.add_1") != attrs.encoding("layers.1.add_1")
    assert coded.logits != attrs.logits


@pytest.mark.parametrize(
    "name",
    [
        "smollm3, listed layers without rope, all biases",  # tests/emulator/test_families.py has others
    ],
)
def test_every_point_equals_the_whole_graphs_in_families_with_unlike_layers(small_model, recipe, name):
    checkpoint = Checkpoint(small_model(name)[1])
    samples = [[token % checkpoint.config.vocab_size for token in sample] for sample in SAMPLES]
    attrs = calibrate(checkpoint, samples, recipe, Progress())
    assert attrs == calibrate_plain(checkpoint, samples, recipe)


def test_layers_have_encodings_of_their_own(attrs):
    points = {point.split(".", 2)[2] for point in attrs.activations if point.startswith("layers.")}
    scales = {point: {attrs.activations[f"layers.{i}.{point}"].scale for i in range(N_LAYERS)} for point in points}
    assert len(points) > 20
    fixed = {point for point in points if "sigmoid" in point or "softmax" in point or "silu" in point}
    assert all(len(scales[point]) == N_LAYERS for point in points - fixed)


def test_ranges_are_those_of_the_float_decoder(checkpoint, attrs):
    decoder = load_decoder(checkpoint, 16)
    results = []
    for sample in SAMPLES:
        tokens, positions = token_inputs(sample)
        n = len(sample)
        with torch.no_grad():
            results.append(decoder(tokens, causal_masks(n, n, 0, None), positions, *empty_caches(checkpoint.config, 0)))
    logits, *new = zip(*results, strict=True)
    observed = encoding_of(*logits)
    assert math.isclose(attrs.logits.scale, observed.scale, rel_tol=1e-4)
    assert abs(attrs.logits.zero_point - observed.zero_point) <= 8
    k, v = ([layer[name] for layer in attrs.kv] for name in "kv")
    for encoding, values in zip(k + v, new, strict=True):
        # Around the middle code, so that the HTP multiplies with them as they are.
        assert math.isclose(encoding.scale, max(value.abs().max() for value in values) / 32767, rel_tol=1e-4)
        assert encoding.zero_point == 32768
    assert {(e.qmin, e.qmax, e.bits) for e in (attrs.logits, *k, *v)} == {(0, 65535, 16)}


def test_matmuls_read_the_caches_in_the_scale_in_which_these_are_coded(attrs):
    check_scales_of_matmuls(attrs)


@pytest.mark.parametrize("observer", ["moving_average", "mse"])
def test_matmuls_read_the_caches_in_their_scale_whatever_the_observer(checkpoint, observer):
    check_scales_of_matmuls(calibrate(checkpoint, SAMPLES, recipe_from({"observer": observer}, "r"), Progress()))


def check_scales_of_matmuls(attrs) -> None:
    for i, layer in enumerate(attrs.kv):
        operands = [e for point, e in attrs.activations.items() if re.fullmatch(rf"layers\.{i}\..*for_matmul", point)]
        assert [(e.scale, e.zero_point) for e in operands] == [(layer[name].scale, 0) for name in "kv"]


def test_each_sample_counts(checkpoint, recipe, attrs):
    for left_out in range(len(SAMPLES)):
        fewer = calibrate(checkpoint, SAMPLES[:left_out] + SAMPLES[left_out + 1 :], recipe, Progress())
        assert fewer.activations.keys() == attrs.activations.keys()
        assert fewer != attrs


def test_the_cache_is_coded_as_what_is_added_to_it(attrs):
    for i, layer in enumerate(attrs.kv):
        assert attrs.encoding(f"layers.{i}.k_cache") == layer["k"]
        assert attrs.encoding(f"layers.{i}.v_cache") == layer["v"]
        assert layer["k"] != layer["v"]


def test_mask_codes_are_those_of_the_runner(attrs):
    def real(code):
        return (code - attrs.mask.zero_point) * attrs.mask.scale

    assert real(65535) == 0.0
    assert math.isclose(real(0), -255.0, rel_tol=1e-6)
    assert attrs.encoding("atten_mask") == attrs.mask


def test_ranges_that_are_known_do_not_depend_on_the_samples(checkpoint, recipe, attrs):
    """A single token attends to itself alone, at position 0: cosine 1, sine 0, nothing masked."""
    single = calibrate(checkpoint, [[5]], recipe, Progress())
    assert single.mask == attrs.mask
    for table in ("prologue.index", "prologue.index_1"):
        assert single.encoding(table) == attrs.encoding(table)
        assert math.isclose(single.encoding(table).scale, 2 / 65535, rel_tol=1e-6)


def test_calibrating_twice_gives_the_same_bytes(checkpoint, recipe, attrs, tmp_path):
    again = calibrate(checkpoint, SAMPLES, recipe, Progress())
    facts = {"model": "m", "recipe": "16a8w", "checkpoint": "", "calibration": {}}
    save_quant_attrs(tmp_path / "a.json", attrs, **facts)
    save_quant_attrs(tmp_path / "b.json", again, **facts)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("samples", "named"),
    [
        ([], "no tokens"),
        ([[1], []], "no tokens"),
        ([[1, VOCABULARY]], f"token id {VOCABULARY}, but the checkpoint's vocabulary has {VOCABULARY} entries"),
    ],
)
def test_samples_that_cannot_be_read_are_refused(checkpoint, recipe, samples, named):
    with pytest.raises(HexportError) as refusal:
        calibrate(checkpoint, samples, recipe, Progress())
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_by_their_layer(tmp_path, recipe, value):
    def spoil(model):
        model.model.layers[1].mlp.down_proj.weight[3, 5] = value

    checkpoint = save_model(tmp_path, spoil, num_hidden_layers=2)
    with pytest.raises(HexportError, match=r"layers\.1\.feed_forward\.") as refusal:
        calibrate(checkpoint, SAMPLES, recipe, Progress())
    assert "\n" not in str(refusal.value)


def test_blocks_that_do_not_fit_the_model_are_refused_before_its_layers_run(checkpoint):
    recipe = recipe_from({"weight_bits": 4, "granularity": "per_block", "block_size": 16}, "r")
    with pytest.raises(HexportError, match=r"attention\.q_proj of layer 0 has 24 input channels; .* a multiple of 32"):
        calibrate(checkpoint, SAMPLES, recipe, Progress())


@pytest.fixture(scope="module")
def large_vocabulary(tmp_path_factory):
    """Of 300 words, with a head of its own and extremes of the table in rows that no sample reads."""

    def spread(model):
        model.model.embed_tokens.weight[299, 3], model.model.embed_tokens.weight[70, 11] = 9.0, -7.0

    return save_model(tmp_path_factory.mktemp("large_vocabulary"), spread, vocab_size=300)


@pytest.mark.parametrize("observer", ["min_max", "moving_average", "mse"])
@pytest.mark.parametrize("keys", [{}, {"r1": True}, {"embedding_bits": 8}], ids=["", "r1", "row_scales"])
def test_blocks_of_the_vocabulary_give_what_the_whole_gives(large_vocabulary, monkeypatch, observer, keys):
    recipe = recipe_from({"observer": observer, **keys}, "r")
    checkpoint = Checkpoint(large_vocabulary.path.parent, recipe.basis)
    samples = [[5, 299, 0, 17, 17, 3, 244, 8, 21], [130], [64, 63, 1, 255, 256, 6]]
    whole = calibrate(checkpoint, samples, recipe, Progress())
    monkeypatch.setattr(vocabulary, "BLOCK_VALUES", 1)
    assert len(vocabulary.row_blocks(checkpoint)) == 5
    assert calibrate(checkpoint, samples, recipe, Progress()) == whole


@pytest.mark.parametrize(("bits", "point"), [(16, "embedding.embedding"), (8, "mul")])
def test_the_embeddings_range_is_that_of_the_whole_table(large_vocabulary, monkeypatch, bits, point):
    monkeypatch.setattr(vocabulary, "BLOCK_VALUES", 1)
    recipe = recipe_from({"embedding_bits": bits}, "r")
    checkpoint = Checkpoint(large_vocabulary.path.parent, recipe.basis)
    attrs = calibrate(checkpoint, [[1, 2, 3]], recipe, Progress())
    found, expected = attrs.encoding(f"prologue.{point}"), encoding_of(torch.tensor([9.0, -7.0]))
    assert math.isclose(found.scale, expected.scale, rel_tol=1e-6)
    assert found.zero_point == expected.zero_point


def test_progress_counts_parts_and_stages(large_vocabulary, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "BLOCK_VALUES", 1)
    progress = Progress(tmp_path / "log")
    calibrate(large_vocabulary, SAMPLES, recipe, progress)
    log = (tmp_path / "log").read_text()
    parts = {
        "read embeddings: block": 5,
        "calibrate prologue: sample": len(SAMPLES),
        "prepare layers: template": 1,
        "calibrate: layer": N_LAYERS,
        "calibrate epilogue: block": 5 * len(SAMPLES),
    }
    for part, n in parts.items():
        for i in range(n):
            assert f" {part} {i + 1} of {n}" in log
    last_parts = [line for line in log.splitlines() if " calibrate: layer" in line or " calibrate epilogue: " in line]
    assert [line for line in last_parts if " of " in line and not line.endswith(" left")] == []
    assert progress.stages.keys() == {f"calibrate {part}" for part in ("prologue", "layers", "epilogue")}
