"""Recipes as data, and what they ask of the quantiser."""

import pytest

from hexport.decoder.weights import Checkpoint, load_epilogue
from hexport.errors import HexportError
from hexport.quantization.calibration import prepare_epilogue, prepare_layer
from hexport.quantization.recipe import Override, Recipe, load_recipe, recipe_from

pytestmark = pytest.mark.usefixtures("qnn_sdk")

SPEC = {"dtype": "16a8w", "granularity": "per_channel", "kv_bits": 16}


def weight_bits(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, int]:
    """Bits of every projection's weight, and of the output projection's, by its name in the decoder."""
    prepared = prepare_layer(checkpoint, 0, 8, 1, recipe), prepare_epilogue(load_epilogue(checkpoint), 1, recipe)
    observers = prepared[0].weights | prepared[1].weights
    return {
        name.removesuffix(".weight"): (observer.quant_max - observer.quant_min).bit_length()
        for name, observer in observers.items()
        if name.endswith(("proj.weight", "output.weight"))
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoint")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(folder)
    return Checkpoint(folder)


def test_the_built_in_recipe():
    assert load_recipe("16a8w") == Recipe(dtype="16a8w", granularity="per_channel", kv_bits=16, overrides=())


def test_a_recipe_of_its_content():
    overrides = [{"modules": "down_proj", "dtype": "16a4w"}]
    assert recipe_from({**SPEC, "overrides": overrides}, "mine").overrides == (
        Override(modules="down_proj", dtype="16a4w", granularity="per_channel"),
    )


def test_every_projection_has_the_bits_of_the_recipe(checkpoint):
    names = {f"attention.{name}_proj" for name in "qkvo"} | {f"feed_forward.{name}_proj" for name in ("gate", "up")}
    names |= {"feed_forward.down_proj", "output"}
    assert weight_bits(checkpoint, recipe_from(SPEC, "r")) == dict.fromkeys(names, 8)
    assert weight_bits(checkpoint, recipe_from({**SPEC, "dtype": "16a4w"}, "r")) == dict.fromkeys(names, 4)


@pytest.mark.parametrize(
    ("overrides", "four_bits"),
    [
        ([("feed_forward.down_proj", "16a4w")], {"feed_forward.down_proj"}),
        ([("attention", "16a4w")], {f"attention.{name}_proj" for name in "qkvo"}),
        ([("[kv]_proj$", "16a4w"), ("output", "16a4w")], {"attention.k_proj", "attention.v_proj", "output"}),
        ([("feed_forward", "16a4w"), ("up_proj", "16a8w")], {"feed_forward.gate_proj", "feed_forward.down_proj"}),
        ([("up_proj", "16a8w"), ("up_proj", "16a4w")], {"feed_forward.up_proj"}),
    ],
)
def test_overrides_reach_the_projections_that_they_name_and_later_ones_win(checkpoint, overrides, four_bits):
    spec = {**SPEC, "overrides": [{"modules": modules, "dtype": dtype} for modules, dtype in overrides]}
    bits = weight_bits(checkpoint, recipe_from(spec, "r"))
    assert {name for name, width in bits.items() if width == 4} == four_bits
    assert {name for name, width in bits.items() if width != 4} == {name for name in bits if bits[name] == 8}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dtype": "4a4w"}, "dtype '4a4w' is not supported; supported: 16a8w, 16a4w"),
        ({"dtype": "8a8w"}, "dtype '8a8w' is not supported"),  # the KV cache has 16 bits
        ({"granularity": "per_block"}, "granularity 'per_block' is not supported; supported: per_channel"),
        ({"granularity": "per_tensor"}, "granularity 'per_tensor' is not supported"),
        ({"kv_bits": 8}, "kv_bits 8 is not supported; supported: 16"),
        ({"rotation": "r3"}, "rotation"),
        ({"overrides": [{"modules": "down_proj", "dtype": "8w"}]}, "dtype '8w' is not supported"),
        ({"overrides": [{"modules": "down_proj"}]}, "dtype"),
        ({"overrides": [{"modules": "down_proj", "dtype": "16a4w", "bits": 4}]}, "bits"),
        ({"overrides": [{"modules": "mlp.down", "dtype": "16a4w"}]}, "modules 'mlp.down' names none; known: "),
        ({"overrides": [{"modules": "layers.0.", "dtype": "16a4w"}]}, "modules 'layers.0.' names none"),
        ({"overrides": [{"modules": "(down", "dtype": "16a4w"}]}, "modules '(down' is no regular expression"),
    ],
)
def test_what_cannot_be_lowered_is_refused_in_one_line(changes, named):
    with pytest.raises(HexportError) as refusal:
        recipe_from({**SPEC, **changes}, "mine")
    assert str(refusal.value).startswith("recipe mine: ")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_recipe_without_dtype_is_refused():
    with pytest.raises(HexportError, match="dtype"):
        recipe_from({"kv_bits": 16}, "mine")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(HexportError, match=r"recipe '8w' is unknown; known: .*16a8w"):
        load_recipe("8w")
