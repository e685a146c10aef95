"""GGUF files, written as llama.cpp's converter writes them, to canonical checkpoints that transformers loads."""

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf_files import FAMILIES, tiny, write_gguf
from transformers import AutoModelForCausalLM

import convert_checkpoint
from hexport.decoder.config import decoder_config, load_config

SETTINGS = {"sha256": None, "params": None}


def logits(model, length=40) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 3 + length).reshape(1, -1)).logits


VARIANTS = {
    **{family: (family, {}, {}) for family in FAMILIES},
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, {}),
    "llama_linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 2.5}}, {}),
    "gemma3_local_theta": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 5e4, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            }
        },
        {"rope__freq_base_swa": 300.0},
    ),
    "phi3_plain": (
        "phi3",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "sliding_window": 8,
            "tie_word_embeddings": False,
        },
        {},
    ),
    "phi3_attention_factor": (
        "phi3",
        {"rope_parameters": {**FAMILIES["phi3"]["rope_parameters"], "attention_factor": 1.5}},
        {"rope__scaling__attn_factor": 1.5},
    ),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3_biases": ("qwen3", {"attention_bias": True}, {}),
    "smollm3_untied": ("smollm3", {"tie_word_embeddings": False}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_architecture_gives_the_models_own_tensors_config_and_logits(run_script, tmp_path, output, variant):
    family, changes, keys = VARIANTS[variant]
    model = tiny(family, **changes)
    source = write_gguf(tmp_path / "model.gguf", model, **keys)
    run_script(convert_checkpoint.main, SETTINGS, source=source, output=output)
    loaded = AutoModelForCausalLM.from_pretrained(output.parent, dtype=torch.float32)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert load_config(output.with_name("config.json")) == decoder_config(model.config.to_dict())
    for length in (12, 40):  # both sides of LongRoPE's original context and of the sliding window
        torch.testing.assert_close(logits(loaded, length), logits(model, length), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_scaling_is_found_in_its_frequencies(run_script, tmp_path, output, factor):
    scaling = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": factor, **scaling}
    model = tiny("llama", head_dim=64, rope_parameters=rope)
    run_script(convert_checkpoint.main, SETTINGS, source=write_gguf(tmp_path / "model.gguf", model), output=output)
    config = json.loads(output.with_name("config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "llama3", "factor": factor, **scaling}
    loaded = AutoModelForCausalLM.from_pretrained(output.parent)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("tied", [True, False])
def test_quantised_matrices_become_what_they_stand_for(run_script, tiny_llama, tmp_path, output, kind, tied):
    biases = {"attention_bias": not tied, "mlp_bias": not tied}
    model = tiny_llama(tie_word_embeddings=tied, **biases)
    source = write_gguf(tmp_path / "model.gguf", model, GGMLQuantizationType[kind])
    run_script(convert_checkpoint.main, SETTINGS, source=source, output=output)
    loaded = AutoModelForCausalLM.from_pretrained(output.parent, dtype=torch.float32)
    assert loaded.config.tie_word_embeddings is tied
    assert torch.equal(logits(loaded), logits(model))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_half_precision_stays_and_the_manifest_names_the_source(run_script, tiny_llama, tmp_path, output):
    from safetensors import safe_open

    source = write_gguf(tmp_path / "model.gguf", tiny_llama(), GGMLQuantizationType.BF16)
    run_script(convert_checkpoint.main, SETTINGS, source=source, output=output)
    with safe_open(output, "pt") as tensors:
        assert tensors.get_tensor("model.layers.1.self_attn.q_proj.weight").dtype == torch.bfloat16
        assert tensors.get_tensor("model.norm.weight").dtype == torch.float32
    manifest = json.loads((output.parent / "model.safetensors.manifest.json").read_text())
    assert list(manifest["inputs"]) == ["model.gguf"]
    assert (output.parent / "config.json.manifest.json").is_file()


def test_absent_metadata_has_llama_cpps_defaults(run_script, tiny_llama, tmp_path, output):
    model = tiny_llama(num_attention_heads=2, num_key_value_heads=2, head_dim=48, rope_theta=10000.0)
    absent = ["attention__head_count_kv", "attention__key_length", "attention__value_length", "rope__dimension_count"]
    absent += ["rope__freq_base", "vocab_size"]
    source = write_gguf(tmp_path / "model.gguf", model, **dict.fromkeys(absent))
    run_script(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(output.parent)), logits(model))


NORM = "blk.1.ffn_norm.weight"
FAULTS = {
    "architecture": ({"arch": "falcon"}, ["'falcon'", "supported: llama, gemma, gemma3, phi3"]),
    "rope_freqs": ({"extra": [("rope_freqs.weight", np.full(16, 8, np.float32))]}, ["rope_freqs.weight is not that"]),
    "rope_scaling": ({"metadata": [("llama.rope.scaling.type", "yarn")]}, ["llama.rope.scaling.type", "'yarn'"]),
    "experts": ({"metadata": [("llama.expert_count", 8)]}, ["llama.expert_count", "8"]),
    "partial_rope": ({"rope__dimension_count": 16}, ["rope.dimension_count is 16", "head_dim is 32"]),
    "value_length": ({"attention__value_length": 64}, ["attention.value_length is 64"]),
    "no_heads": ({"attention__head_count": None}, ["llama.attention.head_count is missing"]),
    "heads_per_layer": ({"attention__head_count_kv": [2, 1]}, ["head_count_kv = [2, 1]", "one positive number"]),
    "zero_layers": ({"block_count": 0}, ["llama.block_count = 0"]),
    "parts": ({"metadata": [("split.count", 3)]}, ["one of 3 parts"]),
    "missing": ({"drop": [NORM]}, ["layers.1.post_attention_layernorm.weight is missing", "expected shape [96]"]),
    "no_embedding": ({"drop": ["token_embd.weight"]}, ["token_embd.weight is missing"]),
    "surplus_layer": ({"block_count": 1}, ["tensor blk.1.", "unknown"]),
    "unknown": ({"extra": [("blk.0.attn_q_norm.weight", np.ones(32, np.float32))]}, ["attn_q_norm.weight is unknown"]),
    "surplus": ({"extra": [("output_norm.bias", np.ones(96, np.float32))]}, ["model.norm.bias is surplus"]),
    "shape": (
        {"drop": [NORM], "extra": [(NORM, np.ones(32, np.float32))]},
        ["layers.1.post_attention_layernorm.weight", "expected shape [96]", "found [32]"],
    ),
    "type": ({"extra": [("output.weight", np.ones((160, 96), np.int8))]}, ["output.weight", "I8"]),
    "nan": ({"drop": [NORM], "extra": [(NORM, np.full(96, np.nan, np.float32))]}, ["NaN or infinity", "layers.1"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_understood_is_refused_by_name(script_error, tiny_llama, tmp_path, output, fault):
    arguments, parts = FAULTS[fault]
    source = write_gguf(tmp_path / "model.gguf", tiny_llama(tie_word_embeddings=True), **arguments)
    line = script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert all(part in line for part in [*parts, "model.gguf"]), line


FAMILY_FAULTS = {
    "gemma3_window": ("gemma3_text", {"attention__sliding_window": None}, ["gemma3.attention.sliding_window is None"]),
    "gemma3_softcap": ("gemma3_text", {"final_logit_softcapping": 30.0}, ["gemma3.final_logit_softcapping = 30.0"]),
    "gemma3_pattern": ("gemma3_text", {"attention__sliding_window_pattern": 2}, ["sliding_window_pattern = 2"]),
    "gemma_norms": (
        "gemma",
        {"drop": [NORM], "extra": [(NORM, np.ones(96, np.float16))]},
        ["layers.1.post_attention_layernorm.weight has type F16"],
    ),
    "phi3_attention_factor": ("phi3", {"rope__scaling__attn_factor": None}, ["attn_factor", "some are missing"]),
    "phi3_short_factors": ("phi3", {"drop": ["rope_factors_short.weight"]}, ["rope_factors_short.weight", "missing"]),
    "phi3_no_factors": (
        "phi3",
        {"drop": ["rope_factors_short.weight", "rope_factors_long.weight"]},
        ["phi3.rope.scaling.type = 'longrope'"],
    ),
    "phi3_too_few_factors": (
        "phi3",
        {"drop": ["rope_factors_long.weight"], "extra": [("rope_factors_long.weight", np.ones(5, np.float32))]},
        ["long_factor must be a list of 6 numbers, found 5 values"],
    ),
    "qwen3_scaling": ("qwen3", {"rope__scaling__type": "yarn"}, ["qwen3.rope.scaling.type = 'yarn'"]),
    "qwen2_bias": ("qwen2", {"drop": ["blk.3.attn_k.bias"]}, ["layers.3.self_attn.k_proj.bias is missing"]),
}


@pytest.mark.parametrize("fault", FAMILY_FAULTS)
def test_what_a_family_cannot_have_is_refused_by_name(script_error, tmp_path, output, fault):
    family, arguments, parts = FAMILY_FAULTS[fault]
    source = write_gguf(tmp_path / "model.gguf", tiny(family), **arguments)
    line = script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert all(part in line for part in [*parts, "model.gguf"]), line


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_infinity_behind_quantised_blocks_is_found(script_error, tiny_llama, tmp_path, output, kind):
    source = write_gguf(tmp_path / "model.gguf", tiny_llama(), GGMLQuantizationType[kind])
    tensor = next(t for t in GGUFReader(source).tensors if t.name == "blk.1.attn_k.weight")
    offset = tensor.data_offset + tensor.n_bytes // 2  # a block boundary: its first two bytes are a float16
    data = bytearray(source.read_bytes())
    data[offset : offset + 2] = np.float16(np.inf).tobytes()
    source.write_bytes(data)
    line = script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert "model.layers.1.self_attn.k_proj.weight holds NaN or infinity" in line


@pytest.mark.parametrize("keep", [0, 3, 40, 1000, 20000, -5])
def test_damaged_files_are_refused(script_error, tiny_llama, tmp_path, output, keep):
    source = write_gguf(tmp_path / "model.gguf", tiny_llama())
    source.write_bytes(source.read_bytes()[:keep])
    assert "model.gguf" in script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)


def test_metadata_that_is_no_text_is_refused(script_error, tiny_llama, tmp_path, output):
    source = write_gguf(tmp_path / "model.gguf", tiny_llama(), arch="llama")
    text = b"\x05\0\0\0\0\0\0\0llama"  # its length, then general.architecture
    assert source.read_bytes().count(text) == 1
    source.write_bytes(source.read_bytes().replace(text, text[:-1] + b"\xff"))
    line = script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert "model.gguf: general.architecture is not UTF-8" in line


def test_another_digest_is_refused(script_error, tiny_llama, tmp_path, output):
    source = write_gguf(tmp_path / "model.gguf", tiny_llama())
    settings = {"sha256": "0" * 64, "params": None}
    assert "sha256 differs" in script_error(convert_checkpoint.main, settings, source=source, output=output)
