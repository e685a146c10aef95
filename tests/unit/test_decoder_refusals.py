"""What the decoder does not compute, and checkpoints that are not whole, are refused by name in one line."""

import json

import pytest
from safetensors.torch import load_file, save_file

from hexport.decoder.config import decoder_config
from hexport.decoder.families import COMMON_KEYS, FAMILIES
from hexport.decoder.rope_scaling import ROPE_KEYS, Rope
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 30,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": True,
}


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def test_the_base_of_these_tests_is_accepted():
    config = decoder_config(CONFIG)
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (6, 2, 8)
    assert (config.norm_eps, config.ropes, config.tied_head) == (1e-5, (Rope(500.0, 8),), True)


def test_sizes_that_a_config_leaves_out():
    config = decoder_config({key: CONFIG[key] for key in CONFIG if key not in ("head_dim", "num_key_value_heads")})
    assert (config.n_kv_heads, config.head_dim) == (6, 4)


def refused(changes: dict) -> str:
    with pytest.raises(HexportError) as refusal:
        decoder_config({**CONFIG, **changes}, "a/config.json")
    message = str(refusal.value)
    assert message.startswith("a/config.json: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("model_type", ["mamba", "gemma2", "gemma3", "phi", "Llama", "", None, 7, ["llama"]])
def test_an_unknown_family_is_refused_with_the_known_ones(model_type):
    message = refused({"model_type": model_type})
    assert f"model_type {model_type!r} is not supported; supported: llama, gemma, gemma3_text, phi3, qwen2" in message


def test_a_number_of_layers_beyond_any_model_is_refused_at_once():
    assert "num_hidden_layers 1000000000 is more than 1000" in refused({"num_hidden_layers": 10**9})


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("llama", "attn_logit_softcapping", 50.0),
        ("llama", "final_logit_softcapping", 30.0),
        ("llama", "num_local_experts", 8),
        ("llama", "quantization_config", {"quant_method": "gptq"}),
        ("llama", "sliding_window", 4096),
        ("llama", "layer_types", ["full_attention", "full_attention"]),
        ("llama", "no_rope_layers", [1, 0]),
        ("llama", "query_pre_attn_scalar", 144),
        ("llama", "hidden_act", "gelu"),
        ("llama", "hidden_act", ["silu"]),
        ("llama", "clip_qkv", 8.0),
        ("llama", "embedding_multiplier", 12.0),
        ("llama", "partial_rotary_factor", 0.5),
        ("gemma", "final_logit_softcapping", 30.0),
        ("gemma", "use_bidirectional_attention", True),
        ("gemma", "hidden_act", "silu"),
        ("gemma3_text", "attn_logit_softcapping", 50.0),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("gemma3_text", "hidden_activation", "gelu"),  # the exact function in this family
        ("phi3", "attention_bias", True),
        ("phi3", "lm_head_bias", True),
        ("phi3", "full_attn_mod", 2),
        ("phi3", "interpolate_factor", 4),
        ("phi3", "num_experts_per_tok", 2),
        ("phi3", "partial_rotary_factor", 1.5),
        ("qwen2", "attention_bias", True),
        ("qwen2", "mlp_bias", True),
        ("qwen3", "num_experts", 128),
        ("qwen3", "mlp_only_layers", [0]),
        ("smollm3", "quantization_config", {"bits": 4}),
        ("smollm3", "is_encoder_decoder", True),
    ],
)
def test_a_feature_of_another_family_is_refused_by_key_and_value(model_type, key, value):
    assert f"{key}: {value!r} is not supported" in refused({"model_type": model_type, key: value})


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn' is not supported"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope scaling 'dynamic' is not supported"),
        ("qwen2", {"rope_parameters": {"rope_type": "ntk"}}, "rope scaling 'ntk' is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope scaling 'linear': factor must be a positive number"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "low_freq_factor must be a positive number",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor: 0.5",
        ),
        (
            "llama",
            {"rope_scaling": {"mrope_section": [1, 2]}},
            "rotary parameter mrope_section: [1, 2] is not supported",
        ),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 9.0}}}, "rotary parameter full_attention: {"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 9.0}}, "rope_parameters: 'rope_theta' is not supported"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": 9.0}},
            "full_attention: expected keys with values, found 9.0",
        ),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling: expected keys with values, found 'linear'"),
        (
            "llama",
            {"rope_scaling": {**LONGROPE, "long_factor": [2.0] * 3}},
            "long_factor must be a list of 4 numbers, found 3",
        ),
        (
            "llama",
            {"rope_scaling": {**LONGROPE, "long_factor": [2.0, 1.0, 0.0, 1.0]}},
            "long_factor[2] must be a positive number, found 0.0",
        ),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "short_factor must be a list of 4 numbers, found None"),
        (
            "llama",
            {"rope_scaling": LONGROPE},
            "max_position_embeddings must be an integer of at least 2, it is missing",
        ),
        ("llama", {"rope_theta": "1e4"}, "rope_theta must be a positive number, found '1e4'"),
        ("llama", {"rope_theta": None}, "rope_theta must be a positive number, found None"),
        ("llama", {"head_dim": 7}, "7 dimensions of a head are rotated (head_dim 7, "),
        (
            "phi3",
            {"partial_rotary_factor": 0.4},
            "3 dimensions of a head are rotated (head_dim 8, partial_rotary_factor 0.4)",
        ),
        ("llama", {"num_key_value_heads": 4}, "num_attention_heads 6 is not a multiple of num_key_value_heads 4"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, found 0"),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive number, found 0"),
        ("gemma3_text", {"sliding_window": None}, "sliding_window must be a positive integer, found None"),
        ("gemma3_text", {"sliding_window": 4.5}, "sliding_window must be a positive integer, found 4.5"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern must be a positive integer, found 0"),
        (
            "gemma3_text",
            {"layer_types": ["full_attention", "chunked_attention"]},
            "layer_types: 'chunked_attention' is not supported",
        ),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types must be a list of 2 values, one per layer"),
        ("qwen3", {"layer_types": ["full_attention"] * 3}, "layer_types must be a list of 2 values, one per layer"),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": -1},
            "max_window_layers must be an integer of at least 0",
        ),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers must be a list of 2 values, one per layer"),
        ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers: 2 is not supported; supported: 0, 1"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval must be a positive integer, found 0"),
        ("smollm3", {"no_rope_layers": "1, 0"}, "no_rope_layers must be a list of 2 values"),
    ],
)
def test_a_value_that_cannot_be_computed_is_refused_by_name(model_type, changes, named):
    assert named in refused({"model_type": model_type, **changes})


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_size_that_is_missing_or_wrong_is_named(key):
    with pytest.raises(HexportError, match=f"{key} must be a positive integer, it is missing"):
        decoder_config({name: value for name, value in CONFIG.items() if name != key})
    for value in (0, -1, 1.5, "8", None, True):
        assert f"{key} must be a positive integer, found {value!r}" in refused({key: value})


# Values that JSON can say, of every type.
WRONG = [None, 0, -1, 2.5, "abc", "", [], [1, "a"], {}, {"a": 1}, True, float("nan"), float("inf")]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_value_of_any_key_breaks_the_reader(model_type):
    """It is accepted, or refused in one line that starts with the file."""
    window = {"use_sliding_window": True} if "use_sliding_window" in FAMILIES[model_type].keys else {}
    scalings = [{}, {"factor": 2.0}, {"rope_type": "linear"}, {"rope_type": "llama3"}, LONGROPE]
    changes = [{key: value} for key in COMMON_KEYS | FAMILIES[model_type].keys for value in WRONG]
    for rope in scalings:
        changes += [{"rope_scaling": {**rope, key: value}} for key in ROPE_KEYS for value in WRONG]
    n_refused = 0
    for change in changes:
        try:
            decoder_config({**CONFIG, "model_type": model_type, **window, **change}, "a/config.json")
        except HexportError as refusal:
            n_refused += 1
            assert str(refusal).startswith("a/config.json: ")
            assert "\n" not in str(refusal)
    assert n_refused > 100


@pytest.fixture
def checkpoint(tiny_llama, tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    return tmp_path


def refusal(folder) -> str:
    with pytest.raises(HexportError) as error:
        Checkpoint(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", [160, 96]),
        ("model.layers.0.self_attn.q_proj.weight", [192, 96]),
        ("model.layers.1.self_attn.k_proj.weight", [64, 96]),
        ("model.layers.1.mlp.down_proj.weight", [96, 160]),
        ("model.layers.1.input_layernorm.weight", [96]),
        ("lm_head.weight", [160, 96]),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named_with_both_shapes(checkpoint, name, expected):
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    short = tensors[name][:-2].clone()
    save_file({**tensors, name: short}, file)
    assert f"{file}: tensor {name}: expected shape {expected}, found {list(short.shape)}" == refusal(checkpoint)
    del tensors[name]
    save_file(tensors, file)
    assert f"{file}: tensor {name}: expected shape {expected}, found none" == refusal(checkpoint)


def test_more_layers_in_the_config_than_in_the_file(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "tensor model.layers.2." in refusal(checkpoint)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 a pickle in a zip file", None])
def test_a_broken_safetensors_file_is_one_line(checkpoint, content):
    file = checkpoint / "model.safetensors"
    if content is None:  # cut short
        content = file.read_bytes()[:-100]
    file.write_bytes(content)
    assert refusal(checkpoint).startswith(f"{file}: not a readable safetensors file: ")


def test_a_missing_safetensors_file_is_one_line(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert "No such file" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", ": not JSON: "),
        (b"\xff\xfe", ": not JSON: "),
        (b"[1]", ": expected a JSON object"),
        (None, " is missing"),
    ],
)
def test_a_broken_config_is_one_line(checkpoint, content, named):
    file = checkpoint / "config.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert refusal(checkpoint).startswith(f"{file}{named}")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, found 'false'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, found 1"),
        ({"attention_bias": "no"}, "attention_bias must be true or false, found 'no'"),
        ({"mlp_bias": [False]}, "mlp_bias must be true or false, found [False]"),
        ({"model_type": "qwen2", "use_sliding_window": "false"}, "use_sliding_window must be true or false"),
        ({"hidden_size": 10**400}, "hidden_size must be at most 2147483647, found a number of 1329 bits"),
        ({"vocab_size": 2**31}, "vocab_size must be at most 2147483647"),
        ({"rope_theta": 10**400}, "rope_theta must be a"),
        ({"rope_theta": 1e300}, "rope_theta must be at most 3e+38"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive number, found inf"),
    ],
)
def test_values_of_another_type_or_beyond_all_sizes_are_refused(changes, part):
    assert part in refused(changes)


@pytest.mark.parametrize(("low", "high"), [(4.0, 1.0), (2.0, 2.0)])
def test_llama_3s_scaling_needs_a_band_between_its_frequencies(low, high):
    scaling = {"factor": 8.0, "low_freq_factor": low, "high_freq_factor": high}
    rope = {"rope_type": "llama3", "original_max_position_embeddings": 8192, **scaling}
    assert f"low_freq_factor {low} must be below high_freq_factor {high}" in refused({"rope_scaling": rope})
