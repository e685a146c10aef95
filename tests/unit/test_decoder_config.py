"""config.json of every family: both spellings of rotary parameters, absent keys, keys without a meaning."""

import copy

import pytest
from small_models import FULL, SLIDING
from transformers import AutoConfig

from hexport.decoder.config import DecoderConfig, decoder_config
from hexport.decoder.families import COMMON_KEYS, FAMILIES, IRRELEVANT_KEYS
from hexport.decoder.rope_scaling import Linear, Llama3, LongRope, Rope
from hexport.errors import HexportError

SIZES = {
    "hidden_size": 512,
    "intermediate_size": 96,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 50,
}
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
SHORT_FACTOR, LONG_FACTOR = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5], [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]
LONGROPE = {"short_factor": SHORT_FACTOR, "long_factor": LONG_FACTOR}
PHI3 = {"original_max_position_embeddings": 16, "max_position_embeddings": 256}
# sqrt(1 + ln(256 / 16) / ln(16))
PHI3_ROPE = Rope(70.0, 12, LongRope(tuple(SHORT_FACTOR), tuple(LONG_FACTOR), 16, pytest.approx(2**0.5)))


# (model_type, keys of transformers 4, keys of transformers 5, what both say)
SPELLINGS = {
    "theta": (
        "llama",
        {"rope_theta": 300.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
        (Rope(300.0, 16),),
    ),
    "theta beside rope_parameters, which win": (
        "llama",
        {"rope_theta": 300.0},
        {"rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
        (Rope(300.0, 16),),
    ),
    "llama3": (
        "llama",
        {"rope_theta": 500000, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
        (Rope(500000.0, 16, Llama3(32.0, 1.0, 4.0, 512)),),
    ),
    "linear, by the older name of its type": (
        "gemma",
        {"head_dim": 16, "rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"head_dim": 16, "rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.0}},
        (Rope(300.0, 16, Linear(2.0)),),
    ),
    **{
        f"longrope, by the name {kind}": (
            "phi3",
            {**PHI3, "rope_theta": 70.0, "partial_rotary_factor": 0.75, "rope_scaling": {"type": kind, **LONGROPE}},
            {
                **PHI3,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 70.0,
                    "partial_rotary_factor": 0.75,
                    "original_max_position_embeddings": 16,
                    **LONGROPE,
                },
            },
            (PHI3_ROPE,),
        )
        for kind in ("longrope", "yarn")
    },
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "rope_theta": 1000.0,
            "rope_local_base_freq": 50.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 4,
        },
        {
            "head_dim": 16,
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 50.0},
            },
            "layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 8,
        },
        (Rope(50.0, 16), Rope(1000.0, 16, Linear(8.0))),
    ),
    "gemma3, rope_scaling beside rope_parameters": (
        "gemma3_text",
        {
            "head_dim": 16,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 1000.0}},
        },
        {"head_dim": 16, "rope_parameters": {FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0}}},
        (Rope(10000.0, 16), Rope(1000.0, 16, Linear(8.0))),
    ),
    "qwen2": (
        "qwen2",
        {"rope_theta": 300.0, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 30},
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": [FULL] * 30 + [SLIDING] * 2,
        },
        (Rope(300.0, 16),),
    ),
    "qwen3": (
        "qwen3",
        {"head_dim": 20, "rope_theta": 300.0, "sliding_window": None, "max_window_layers": 0},
        {"head_dim": 20, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "layer_types": [FULL] * 32},
        (Rope(300.0, 20),),
    ),
    "smollm3": (
        "smollm3",
        {"rope_theta": 300.0, "no_rope_layer_interval": 2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "no_rope_layers": [1, 0] * 16},
        (Rope(300.0, 16),),
    ),
}


def read(model_type: str, keys: dict) -> DecoderConfig:
    return decoder_config({"model_type": model_type, **SIZES, **keys})


def saved_by_transformers(model_type: str, keys: dict) -> dict:
    """As transformers 5 writes it, with every key. It changes nested dictionaries of what it is given."""
    return AutoConfig.for_model(model_type, **copy.deepcopy({**SIZES, **keys})).to_dict()


@pytest.mark.parametrize(("model_type", "old", "new", "ropes"), SPELLINGS.values(), ids=SPELLINGS)
def test_both_spellings_of_rotary_parameters_say_the_same(model_type, old, new, ropes):
    config = read(model_type, new)
    assert config.ropes == ropes
    assert read(model_type, old) == config
    assert decoder_config(saved_by_transformers(model_type, old)) == config


def test_the_first_phi3_configs_call_longrope_su():
    """transformers 5 does not read them any more."""
    _, old, new, _ = SPELLINGS["longrope, by the name longrope"]
    assert read("phi3", {**old, "rope_scaling": {"type": "su", **LONGROPE}}) == read("phi3", new)


@pytest.mark.parametrize("changes", [{}, {"use_sliding_window": True, "sliding_window": 9}], ids=["default", "window"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_absent_keys_have_the_defaults_of_transformers(model_type, changes):
    if not changes.keys() <= FAMILIES[model_type].keys:
        changes = {}
    assert read(model_type, changes) == decoder_config(saved_by_transformers(model_type, changes))


def test_the_defaults_that_differ_between_families():
    configs = {model_type: read(model_type, {}) for model_type in FAMILIES}
    assert {name for name, config in configs.items() if config.tied_head} == {"gemma", "gemma3_text", "smollm3"}
    assert {name: config.head_dim for name, config in configs.items() if config.head_dim != 512 // 32} == {
        "gemma": 256,
        "gemma3_text": 256,
        "qwen3": 128,
    }
    assert {name for name, config in configs.items() if config.norm_eps == 1e-5} == {"phi3"}
    assert [kind.rope for kind in configs["smollm3"].layers] == [0, 0, 0, None] * 8
    assert configs["gemma3_text"].attention_scale == 1 / 16
    assert {i for i, kind in enumerate(configs["gemma3_text"].layers) if not kind.sliding} == {5, 11, 17, 23, 29}


# Keys of transformers' classes that change the computation when they are set. hexport knows none of them.
REFUSED = {
    "gemma": {"use_bidirectional_attention"},
    "gemma3_text": {"use_bidirectional_attention", "final_logit_softcapping", "attn_logit_softcapping"},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_key_of_transformers_class_is_known_or_refused(model_type):
    keys = {key for key in vars(AutoConfig.for_model(model_type)) if not key.startswith("_")} - {"is_encoder_decoder"}
    unknown = keys - COMMON_KEYS - FAMILIES[model_type].keys - IRRELEVANT_KEYS
    assert unknown == REFUSED.get(model_type, set())
    for key in unknown | {"is_encoder_decoder"}:
        with pytest.raises(HexportError, match=f"{key}: True is not supported"):
            read(model_type, {key: True})


@pytest.mark.parametrize("key", sorted(IRRELEVANT_KEYS))
def test_a_key_that_is_declared_irrelevant_changes_nothing(key):
    assert read("llama", {key: [7]}) == read("llama", {})


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", [], {}])
@pytest.mark.parametrize("key", ["final_logit_softcapping", "num_local_experts", "a_key_of_next_year"])
def test_unknown_keys_that_are_switched_off_are_accepted(key, value):
    assert read("gemma3_text", {key: value}) == read("gemma3_text", {})


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("llama", {"sliding_window": 4, "use_sliding_window": False}),
        ("llama", {"rope_scaling": None, "partial_rotary_factor": None, "num_key_value_heads": None, "head_dim": None}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": False, "max_window_layers": 1}),
        ("qwen3", {"sliding_window": 4, "max_window_layers": 1}),
        ("phi3", {"sliding_window": 262144, "max_position_embeddings": 131072}),
        ("smollm3", {"sliding_window": 4, "use_sliding_window": False}),
    ],
)
def test_keys_that_are_switched_off_leave_no_window_and_no_scaling(model_type, keys):
    base = {} if model_type != "llama" else {"num_key_value_heads": 32, "head_dim": 16}
    assert read(model_type, keys) == read(model_type, base)
    assert read(model_type, keys).sliding_window is None
