"""Recipes as data: what overrides reach, what the built-in ones give, and what is refused before anything runs."""

import time
from dataclasses import replace

import pytest

from hexport.config.recipes import built_in_recipes, resolve_recipes
from hexport.config.schema import schema, schema_errors
from hexport.config.settings import built_in_models
from hexport.decoder.sizes import PUBLISHED as PUBLISHED_SIZES
from hexport.errors import HexportError
from hexport.quantization.recipe import (
    EPILOGUE,
    LAYER_PROJECTIONS,
    OUTPUT_PROJECTION,
    Precision,
    Recipe,
    projections_of,
)
from hexport.quantization.recipe_checks import check_block_sizes, check_points, check_sizes, recipe_from

ATTENTION, FEED_FORWARD = LAYER_PROJECTIONS[:4], LAYER_PROJECTIONS[4:]
DOWN, V = "feed_forward.down_proj", "attention.v_proj"
LOGITS = [{"layers": EPILOGUE, "points": OUTPUT_PROJECTION, "activation_bits": 16}]


def recipe(based_on: str, **own) -> Recipe:
    """Of an entry of `recipes` in config.yaml."""
    entry = {"based_on": based_on, **own}
    assert list(schema_errors({"models": {"smollm2_135m": {}}, "recipes": {"mine": entry}}, schema("config"))) == []
    return recipe_from(resolve_recipes({"mine": entry})["mine"], "mine")


def reached(recipe: Recipe, layers: int, **precision) -> set[tuple[str, str]]:
    """The projections of a decoder of so many layers that get this precision, by place and name."""
    return {
        (place, projection)
        for place in (*map(str, range(layers)), EPILOGUE)
        for projection in projections_of(place)
        if all(getattr(recipe.at(place, projection), key) == value for key, value in precision.items())
    }


def test_a_recipe_without_keys_is_16a8w():
    assert recipe_from({}, "r") == recipe("16a8w") == Recipe()


def test_keys_of_a_recipe_replace_those_of_its_base_and_leave_the_others():
    mine = recipe("16a4w_block32", observer="mse", kv_bits=8, seq_mse=20)
    assert mine.kv_bits == 8
    expected = Precision(weight_bits=4, granularity="per_block", block_size=32, observer="mse", seq_mse=20)
    assert {mine.at("0", projection) for projection in LAYER_PROJECTIONS} == {expected}


def test_later_overrides_win_key_by_key():
    mine = recipe(
        "16a8w",
        overrides=[
            {"points": "feed_forward.*", "weight_bits": 4, "observer": "mse"},
            {"layers": "2", "points": DOWN, "weight_bits": 8},
            {"layers": "2", "points": "*", "seq_mse": 7},
        ],
    )
    assert mine.at("1", DOWN) == Precision(weight_bits=4, observer="mse")
    assert mine.at("2", DOWN) == Precision(weight_bits=8, observer="mse", seq_mse=7)
    assert mine.at("2", "attention.q_proj") == Precision(seq_mse=7)
    assert mine.at("3", "attention.q_proj") == Precision()


def test_overrides_follow_those_of_the_base():
    """16a4w itself overrides the output projection."""
    assert reached(recipe("16a4w"), 2, weight_bits=8) == {(EPILOGUE, OUTPUT_PROJECTION)}
    assert reached(recipe("16a4w", overrides=[{"points": "output", "weight_bits": 4}]), 2, weight_bits=8) == set()


@pytest.mark.parametrize(
    ("layers", "places"),
    [
        ("*", {*map(str, range(30)), EPILOGUE}),
        ("[0-3]", {"0", "1", "2", "3"}),
        ("2[1-7]", {"21", "22", "23", "24", "25", "26", "27"}),
        ("1?", {str(i) for i in range(10, 20)}),
        ("7", {"7"}),
        ("epilogue", {EPILOGUE}),
        ("[!e]*", set(map(str, range(30)))),
    ],
)
def test_globs_on_layers(layers, places):
    mine = recipe("16a8w", overrides=[{"layers": layers, "weight_bits": 4}])
    assert {place for place, _ in reached(mine, 30, weight_bits=4)} == places


@pytest.mark.parametrize(
    ("points", "named"),
    [
        ("attention", set(ATTENTION)),
        ("attention.*", set(ATTENTION)),
        ("attention.[qk]_proj", {"attention.q_proj", "attention.k_proj"}),
        ("*.down_proj", {DOWN}),
        (V, {V}),
        ("*", set(LAYER_PROJECTIONS)),
    ],
)
def test_globs_on_points(points, named):
    mine = recipe("16a8w", overrides=[{"layers": "0", "points": points, "weight_bits": 4}])
    assert {projection for _, projection in reached(mine, 1, weight_bits=4)} == named


def test_a_point_is_named_by_itself_or_by_any_module_that_it_lies_in():
    point = "attention.q_rope.mul_1"
    for points in (point, "attention.q_rope", "attention", "attention.*", "*.mul_?"):
        assert recipe("16a8w", overrides=[{"points": points, "observer": "mse"}]).at("0", point).observer == "mse"
    for points in ("attention.k_rope", "q_rope", "feed_forward", "*.mul"):
        assert recipe("16a8w", overrides=[{"points": points, "observer": "mse"}]).at("0", point).observer == "min_max"


def test_single_layers_may_each_have_the_same_override():
    each = [{"layers": str(layer), "points": DOWN, "weight_bits": 8} for layer in (21, 22, 28)]
    mine = recipe("16a4w", overrides=each)
    assert [layer for layer in range(30) if mine.at(str(layer), DOWN).weight_bits == 8] == [21, 22, 28]
    assert len({mine.template_of(layer) for layer in range(30)}) == 2


def test_layers_with_the_same_overrides_can_share_a_template():
    mine = recipe("16a4w_block32", overrides=[{"layers": "[0-3]", "points": DOWN, "observer": "mse"}])
    templates = [mine.template_of(layer) for layer in range(8)]
    assert len(set(templates[:4])) == len(set(templates[4:])) == 1
    assert templates[0] != templates[4]


# The published recipes (executorch, examples/qualcomm/oss_scripts/llama): weight bits and block size of most
# projections, those with 8 bits per channel by layer and name, bits of the KV cache, masked softmax.
EVERY, OUTPUT = "every layer", {(EPILOGUE, OUTPUT_PROJECTION)}
PUBLISHED = {
    "stories110m": (4, None, OUTPUT, 8, False),
    "llama3_2-1b_instruct": (4, 32, OUTPUT | {(str(i), DOWN) for i in range(4)}, 8, False),
    "llama3_2-3b_instruct": (4, 32, OUTPUT | {(str(i), DOWN) for i in range(21, 28)}, 8, False),
    "gemma-2b": (4, 64, OUTPUT | {(EVERY, V)}, 8, True),
    "gemma3-1b": (4, 64, OUTPUT | {(EVERY, V)}, 8, True),  # the published one has a head of 4 bits; see docs/recipes.md
    "phi_4_mini": (4, 16, OUTPUT, 8, False),
    "qwen2_5-0_5b": (4, 16, set(), 16, True),
    "qwen2_5-1_5b": (4, 16, OUTPUT, 16, True),
    "qwen3-0_6b": (4, 32, {(EVERY, DOWN)}, 16, True),
    "qwen3-1_7b": (4, 16, OUTPUT, 8, True),
    "smollm2_135m": (8, None, {(EVERY, projection) for projection in LAYER_PROJECTIONS} | OUTPUT, 16, False),
    "smollm3-3b": (4, 32, OUTPUT | {(EVERY, f"attention.{name}_proj") for name in "qkv"}, 8, True),
}
LAYERS = 36  # as many as the deepest of them
EIGHT_BIT_VALUES = {"stories110m", "phi_4_mini"}  # their v_proj puts out 8 bits around 128


def test_every_built_in_model_has_a_published_recipe():
    assert built_in_models().keys() == PUBLISHED.keys()


@pytest.mark.parametrize("model", PUBLISHED)
def test_built_in_models_have_the_bit_widths_of_the_published_recipes(model):
    weight_bits, block_size, in_8_bits, kv_bits, masked_softmax = PUBLISHED[model]
    name = built_in_models()[model]["recipe"]
    found = recipe_from(resolve_recipes({})[name], name)
    places = [(str(i), projection) for i in range(LAYERS) for projection in LAYER_PROJECTIONS]
    for place, projection in (*places, (EPILOGUE, OUTPUT_PROJECTION)):
        wide = {(place, projection), (EVERY if place != EPILOGUE else place, projection)} & in_8_bits
        narrow = {"weight_bits": weight_bits, "granularity": "per_block" if block_size else "per_channel"}
        weights = {"weight_bits": 8, "granularity": "per_channel"} if wide else {**narrow, "block_size": block_size}
        symmetric = projection == V and model in EIGHT_BIT_VALUES
        if symmetric:
            weights = {"weight_bits": 4, "granularity": "per_channel"}
        activations = {"activation_bits": 8 if symmetric else 16, "activation_symmetric": symmetric}
        search = {"seq_mse": 20, "gptq": True} if weights["weight_bits"] == 4 else {}
        assert found.at(place, projection) == Precision(**weights, **activations, **search), (place, projection)
    assert (found.kv_bits, found.logits_bits) == (kv_bits, 16)
    assert (found.masked_softmax, found.r3) == (masked_softmax, False)


def test_built_in_recipes_have_the_keys_and_values_of_config_yaml():
    """`16a8w` is based on none, and complete."""
    entries = {name: {"based_on": "16a8w", **spec} for name, spec in built_in_recipes().items()}
    assert list(schema_errors({"models": {"smollm2_135m": {}}, "recipes": entries}, schema("config"))) == []
    assert [name for name, spec in built_in_recipes().items() if "based_on" not in spec] == ["16a8w"]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"granularity": "per_block", "weight_bits": 4}, "output: granularity per_block needs a block_size"),
        ({"granularity": "per_block", "block_size": 16}, "is for weight_bits 4, not 8; choose per_channel"),
        (
            {"granularity": "per_block", "block_size": 16, "weight_bits": 4, "activation_bits": 8, "kv_bits": 8},
            "granularity per_block is for activation_bits 16; choose per_channel",
        ),
        ({"activation_bits": 8}, "attention.v_proj: activation_bits 8 go with kv_bits 8, not 16"),
        (
            {"overrides": [{"points": "attention.softmax", "activation_bits": 8}]},
            "attention.softmax of layer 0: activation_bits 8 go with kv_bits 8, not 16",
        ),
        (
            {"overrides": [{"layers": "5", "points": V, "activation_bits": 8}]},
            "attention.v_proj: activation_bits 8 go with kv_bits 8, not 16",
        ),
        (
            {"overrides": [{"layers": "1?", "points": DOWN, "granularity": "per_block", "weight_bits": 4}]},
            f"{DOWN}: granularity per_block needs a block_size",
        ),
        (
            {"overrides": [{"points": V, "granularity": "per_tensor", "seq_mse": 9}]},
            f"{V}: seq_mse finds a range per channel, not per_tensor; choose per_channel, or seq_mse: 0",
        ),
        (
            {"overrides": [{"points": V, "granularity": "per_tensor", "gptq": True}]},
            f"{V}: gptq fits a scale per channel, not per_tensor; choose per_channel, or gptq: false",
        ),
        (
            {"tune_scales": 2, "overrides": [{"layers": EPILOGUE, "points": OUTPUT_PROJECTION, "gptq": True}]},
            "tune_scales fits the scales of codes that gptq has found, and no layer has gptq; set gptq: true",
        ),
        ({"activation_symmetric": True}, "activation_symmetric is for activation_bits 8, and must be set beside these"),
        (
            {"overrides": [{"points": "feed_forward", "activation_symmetric": True}]},
            "activation_symmetric is for activation_bits 8, and must be set beside these",
        ),
        (
            {"activation_bits": 8, "kv_bits": 8},
            "output: activation_bits 8, and the logits have 16: end overrides with {layers: epilogue, points: output, ",
        ),
        (
            {
                "activation_bits": 8,
                "activation_symmetric": True,
                "kv_bits": 8,
                "overrides": [{"layers": EPILOGUE, "points": OUTPUT_PROJECTION, "activation_bits": 16}],
            },
            "output: activation_symmetric is for activation_bits 8",
        ),
        (
            {"kv_bits": 8, "overrides": [{"layers": "7", "activation_bits": 8}]},
            "an override gives input_norm.rms_norm of layer 7 activation_bits 8; what layers share has those of the ",
        ),
        (
            {"kv_bits": 8, "overrides": [{"points": "attention", "activation_bits": 8}]},
            "attention.q_rope.mul of layer 0 activation_bits 8; ",
        ),
        (
            {"overrides": [{"layers": "prologue", "activation_bits": 8}]},
            "an override gives embedding.embedding of layer prologue activation_bits 8; ",
        ),
        (
            {"activation_bits": 8, "kv_bits": 8, "embedding_bits": 8, "overrides": LOGITS},
            "embedding_bits 8 is for activation_bits 16; with 8, the table has 8 bits anyway: set embedding_bits: 16",
        ),
        (
            {"embedding_bits": 8, "overrides": [{"layers": "prologue", "points": "mul", "activation_bits": 8}]},
            "an override gives mul of layer prologue activation_bits 8; ",
        ),
        (
            {"overrides": [{"points": "mlp.down_proj", "weight_bits": 4}]},
            "points 'mlp.down_proj' of layers '*' name no projection; known: attention.q_proj, ",
        ),
        (
            {"overrides": [{"layers": "prologue", "weight_bits": 4}]},
            "points '*' of layers 'prologue' name no projection",
        ),
        (
            {"overrides": [{"layers": "0", "points": "output", "seq_mse": 9}]},
            "points 'output' of layers '0' name no projection",
        ),
    ],
)
def test_what_excludes_each_other_is_refused_in_one_line(keys, named):
    with pytest.raises(HexportError) as refusal:
        recipe("16a8w", **keys)
    assert str(refusal.value).startswith("recipe mine: ")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_modules_inside_a_layer_may_have_8_bit_activations():
    mine = recipe("16a8w", overrides=[{"layers": "2", "points": "feed_forward", "activation_bits": 8}])
    assert (mine.at("2", DOWN).activation_bits, mine.at("2", "add_1").activation_bits) == (8, 16)
    everywhere = recipe(
        "16a8w",
        activation_bits=8,
        kv_bits=8,
        overrides=[{"layers": EPILOGUE, "points": OUTPUT_PROJECTION, "activation_bits": 16}],
    )
    assert {everywhere.at("0", point).activation_bits for point in ("add_1", V, "attention.softmax")} == {8}


def test_an_unknown_key_is_refused_in_one_line():
    with pytest.raises(HexportError, match=r"^recipe r: .*'dtype'$"):
        recipe_from({"dtype": "16a8w"}, "r")


@pytest.mark.parametrize(
    ("channels", "block_size", "why"),
    [
        (48, 16, "they must be a multiple of 32"),
        (100, 16, "they must be a multiple of 32"),
        (96, 64, "they must be a multiple of 64"),
        (32, 64, "they must be a multiple of 64"),
        (80, 32, "they must be a multiple of 32"),
        (448, 64, "the emulator crashes on so many"),
        (576, 64, "the emulator crashes on so many"),
    ],
)
def test_channels_that_cannot_be_cut_into_blocks_are_refused_by_projection(channels, block_size, why):
    blocks = {"weight_bits": 4, "granularity": "per_block", "block_size": block_size}
    mine = recipe("16a8w", overrides=[{"layers": "3", "points": DOWN, **blocks}])
    inputs = {("2", DOWN): channels, ("3", V): channels, ("3", DOWN): channels}
    with pytest.raises(HexportError) as refusal:
        check_block_sizes(mine, inputs)
    assert f"block_size {block_size}: {DOWN} of layer 3 has {channels} input channels" in str(refusal.value)
    assert f"{why}; use per_channel there, or another block_size" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_sizes_of_a_model_that_the_recipe_does_not_go_with_are_refused():
    odd = replace(PUBLISHED_SIZES["smollm2_135m"], head_dim=96, intermediate_size=1000)
    with pytest.raises(HexportError, match=r"down_proj of layer 0 has 1000 input channels"):
        check_sizes(recipe("16a4w_block32"), odd)
    check_sizes(recipe("16a4w_block32", overrides=[{"points": DOWN, "granularity": "per_channel"}]), odd)


@pytest.mark.parametrize("model", PUBLISHED)
def test_built_in_models_can_be_cut_into_the_blocks_of_their_recipes(model):
    name = built_in_models()[model]["recipe"]
    check_sizes(recipe_from(resolve_recipes({})[name], name), PUBLISHED_SIZES[model])


@pytest.mark.parametrize(("channels", "block_size"), [(64, 16), (96, 32), (160, 16), (192, 64), (1280, 64), (8960, 16)])
def test_channels_that_the_compiler_cuts_right_are_taken(channels, block_size):
    check_block_sizes(recipe(f"16a4w_block{block_size}"), {("0", DOWN): channels})
    check_block_sizes(recipe("16a8w"), {("0", DOWN): 7})


@pytest.mark.parametrize(
    "changes",
    [
        {"observer": "percentile"},
        {"overrides": [{"layers": "epilogue", "observer": "percentile"}]},
        {"overrides": [{"layers": "3", "observer": "percentile"}]},
    ],
)
def test_percentiles_that_would_clip_logits_or_hidden_states_are_refused(changes):
    with pytest.raises(HexportError, match=r"observer percentile clips logits or hidden states; .* overrides"):
        recipe("16a8w", **changes)


def test_overrides_that_name_nothing_of_the_model_are_refused():
    sizes, points = PUBLISHED_SIZES["smollm2_135m"], [("0", "attention.q_proj.conv2d"), ("0", "attention.q_proj")]
    with pytest.raises(HexportError, match=r"an override names layers '40', and the model has 0 to 29, prologue"):
        check_sizes(recipe("16a8w", overrides=[{"layers": "40", "weight_bits": 4}]), sizes)
    with pytest.raises(HexportError, match=r"points 'atention.q_proj' .* did you mean attention.q_proj\?"):
        check_points(recipe("16a8w", overrides=[{"points": "atention.q_proj", "observer": "mse"}]), points)


def test_r1_is_refused_where_norms_stand_behind_the_layers():
    with pytest.raises(HexportError, match=r"r1: true .*; set r1: false"):
        check_sizes(recipe("16a8w_r1"), PUBLISHED_SIZES["gemma3-1b"])
    check_sizes(recipe("16a8w_r1"), PUBLISHED_SIZES["gemma-2b"])


def test_widen_is_refused_where_hidden_states_can_be_rotated():
    with pytest.raises(HexportError, match=r"widen: 32 .* r1: true does more here; set widen: 0"):
        check_sizes(recipe("16a8w", widen=32), PUBLISHED_SIZES["gemma-2b"])
    check_sizes(recipe("16a8w", widen=32, r2=True), PUBLISHED_SIZES["gemma3-1b"])


def test_a_thousand_overrides_are_checked_in_no_time():
    """Each layer is of a kind of its own; the seconds are the processor's, so other work does not count."""
    overrides = [{"layers": str(i), "points": LAYER_PROJECTIONS[0], "seq_mse": i} for i in range(1000)]
    start = time.process_time()
    mine = recipe("16a8w", overrides=overrides)
    assert time.process_time() - start < 5
    assert len(mine.layer_kinds) == 1000
    assert [mine.at(str(i), LAYER_PROJECTIONS[0]).seq_mse for i in (0, 7, 999)] == [0, 7, 999]
    assert recipe("16a8w", overrides=overrides) is mine  # which every SoC and mode asks for


def test_more_overrides_than_a_recipe_can_have():
    spec = {"overrides": [{"points": DOWN, "seq_mse": 1}] * 1001}
    with pytest.raises(HexportError, match=r"^recipe r: 1,001 overrides, with those of its base, and 1,000 are the mo"):
        recipe_from(spec, "r")
