"""What the decoder does not compute, and checkpoints that are not whole, are refused by name in one line."""

import json

import pytest
from safetensors.torch import load_file, save_file

from hexport.decoder.config import decoder_config
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


def test_the_base_of_these_tests_is_accepted():
    config = decoder_config(CONFIG)
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (6, 2, 8)
    assert (config.norm_eps, config.rope_theta, config.tied_head) == (1e-5, 500.0, True)


def test_sizes_that_a_config_leaves_out():
    config = decoder_config({key: CONFIG[key] for key in CONFIG if key not in ("head_dim", "num_key_value_heads")})
    assert (config.n_kv_heads, config.head_dim) == (6, 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported: llama"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported; supported: 'silu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope scaling 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope scaling 'yarn'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"num_key_value_heads": 4}, "num_attention_heads 6 is not a multiple of num_key_value_heads 4"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(changes, named):
    with pytest.raises(HexportError) as refusal:
        decoder_config({**CONFIG, **changes}, "a/config.json")
    assert named in str(refusal.value)
    assert str(refusal.value).startswith("a/config.json: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_missing_key_is_named(key):
    with pytest.raises(HexportError, match=f"{key} is missing"):
        decoder_config({name: value for name, value in CONFIG.items() if name != key})


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


def test_a_broken_config_is_one_line(checkpoint):
    (checkpoint / "config.json").write_text("{")
    assert "config.json: not JSON" in refusal(checkpoint)
