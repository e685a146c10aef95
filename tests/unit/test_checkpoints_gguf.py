"""GGUF files, written as llama.cpp's converter writes them, to canonical checkpoints that transformers loads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM

import checkpoint

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    name, kind = name.rsplit(".", 1)
    if name.startswith("model.layers."):
        _, _, i, name = name.split(".", 3)
        return f"blk.{i}.{NAMES[name]}.{kind}"
    return f"{NAMES[name]}.{kind}"


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    pairs = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)


def write_gguf(path, model, kind=GGMLQuantizationType.F32, metadata=(), drop=(), extra=(), arch="llama", **changes):
    """Write a model; matrices become `kind` and the model's own weights become what the file then holds.

    `changes` replace metadata below `llama.`; a metadata value of None leaves the key out.
    """
    config = model.config
    writer = GGUFWriter(path, arch)
    keys = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    values = {f"{arch}.{key}": value for key, value in keys.items() if value is not None}
    for key, value in [*values.items(), *metadata]:
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        if gguf_name(name) in drop:
            continue
        array = parameter.detach().numpy()
        if (part := name.split(".")[-2]) in heads:
            array = permute(array, heads[part])
        if array.ndim == 1:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(array))
            continue
        packed = quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=kind)
        restored = dequantize(packed, kind)
        if part in heads:
            restored = restored.reshape(heads[part], -1, 2, config.hidden_size).swapaxes(1, 2).reshape(array.shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(restored)))
    for name, array in extra:
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model) -> torch.Tensor:
    ids = torch.arange(3, 40).reshape(1, -1)
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_the_models(run_script, tiny_llama, tmp_path, kind, tied):
    biases = {"attention_bias": not tied, "mlp_bias": not tied}
    model = tiny_llama(tie_word_embeddings=tied, **biases)
    source = write_gguf(tmp_path / "model.gguf", model, GGMLQuantizationType[kind])
    output = tmp_path / "checkpoint" / "model.safetensors"
    run_script(checkpoint.main, {"sha256": None}, source=source, output=output)
    loaded = AutoModelForCausalLM.from_pretrained(output.parent, dtype=torch.float32)
    assert loaded.config.tie_word_embeddings is tied
    assert torch.equal(logits(loaded), logits(model))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_half_precision_stays_and_the_manifest_names_the_source(run_script, tiny_llama, tmp_path):
    from safetensors import safe_open

    source = write_gguf(tmp_path / "model.gguf", tiny_llama(), GGMLQuantizationType.BF16)
    output = tmp_path / "checkpoint" / "model.safetensors"
    run_script(checkpoint.main, {"sha256": None}, source=source, output=output)
    with safe_open(output, "pt") as tensors:
        assert tensors.get_tensor("model.layers.1.self_attn.q_proj.weight").dtype == torch.bfloat16
        assert tensors.get_tensor("model.norm.weight").dtype == torch.float32
    manifest = json.loads((output.parent / "model.safetensors.manifest.json").read_text())
    assert list(manifest["inputs"]) == ["model.gguf"]
    assert (output.parent / "config.json.manifest.json").is_file()


def test_absent_metadata_has_llama_cpps_defaults(run_script, tiny_llama, tmp_path):
    model = tiny_llama(num_attention_heads=2, num_key_value_heads=2, head_dim=48, rope_theta=10000.0)
    absent = ["attention__head_count_kv", "attention__key_length", "attention__value_length", "rope__dimension_count"]
    absent += ["rope__freq_base", "vocab_size"]
    source = write_gguf(tmp_path / "model.gguf", model, **dict.fromkeys(absent))
    output = tmp_path / "checkpoint" / "model.safetensors"
    run_script(checkpoint.main, {"sha256": None}, source=source, output=output)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(output.parent)), logits(model))


NORM = "blk.1.ffn_norm.weight"
FAULTS = {
    "architecture": ({"arch": "falcon"}, ["'falcon'", "supported: llama"]),
    "rope_freqs": ({"extra": [("rope_freqs.weight", np.ones(16, np.float32))]}, ["rope_freqs.weight"]),
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
def test_what_is_not_understood_is_refused_by_name(script_error, tiny_llama, tmp_path, fault):
    arguments, parts = FAULTS[fault]
    source = write_gguf(tmp_path / "model.gguf", tiny_llama(tie_word_embeddings=True), **arguments)
    output = tmp_path / "checkpoint" / "model.safetensors"
    line = script_error(checkpoint.main, {"sha256": None}, source=source, output=output)
    assert all(part in line for part in [*parts, "model.gguf"]), line


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_infinity_behind_quantised_blocks_is_found(script_error, tiny_llama, tmp_path, kind):
    source = write_gguf(tmp_path / "model.gguf", tiny_llama(), GGMLQuantizationType[kind])
    tensor = next(t for t in GGUFReader(source).tensors if t.name == "blk.1.attn_k.weight")
    offset = tensor.data_offset + tensor.n_bytes // 2  # a block boundary: its first two bytes are a float16
    data = bytearray(source.read_bytes())
    data[offset : offset + 2] = np.float16(np.inf).tobytes()
    source.write_bytes(data)
    output = tmp_path / "checkpoint" / "model.safetensors"
    line = script_error(checkpoint.main, {"sha256": None}, source=source, output=output)
    assert "model.layers.1.self_attn.k_proj.weight holds NaN or infinity" in line


@pytest.mark.parametrize("keep", [0, 3, 40, 1000, 20000, -5])
def test_damaged_files_are_refused(script_error, tiny_llama, tmp_path, keep):
    source = write_gguf(tmp_path / "model.gguf", tiny_llama())
    source.write_bytes(source.read_bytes()[:keep])
    output = tmp_path / "checkpoint" / "model.safetensors"
    assert "model.gguf" in script_error(checkpoint.main, {"sha256": None}, source=source, output=output)


def test_wrong_paths_and_digests(script_error, tiny_llama, tmp_path):
    output = tmp_path / "checkpoint" / "model.safetensors"
    missing = script_error(checkpoint.main, {"sha256": None}, source=tmp_path / "none.gguf", output=output)
    assert "none.gguf: no such file" in missing
    (tmp_path / "model.bin").write_bytes(b"x")
    assert "expected a .gguf" in script_error(
        checkpoint.main, {"sha256": None}, source=tmp_path / "model.bin", output=output
    )
    source = write_gguf(tmp_path / "model.gguf", tiny_llama())
    assert "sha256 differs" in script_error(checkpoint.main, {"sha256": "0" * 64}, source=source, output=output)


# VmHWM is of this process alone; ru_maxrss would start at the memory of pytest, which starts it.
RUN_AND_TELL_PEAK = """
import atexit, pathlib, checkpoint
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
checkpoint.main()
"""


def peak_and_size_mb(source: Path, output: Path) -> tuple[float, float]:
    """Peak memory of the whole process, interpreter and imports included, and the size of the output.

    The output goes at once: pytest keeps the folders of three runs.
    """
    arguments = ["--settings", '{"sha256": null}', "--source", str(source), "--output", str(output)]
    command = [sys.executable, "-c", RUN_AND_TELL_PEAK, *arguments]
    done = subprocess.run(command, cwd=Path(checkpoint.__file__).parent, check=True, capture_output=True)
    size = output.stat().st_size
    output.unlink()
    return int(done.stdout) / 1024, size / 2**20


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_memory_does_not_grow_with_the_checkpoint(tiny_llama, tmp_path, kind):
    """150 MB in float32, 82 MB of it one tensor: the peak stays within a few blocks of a tiny checkpoint's."""
    small = write_gguf(tmp_path / "small.gguf", tiny_llama(), GGMLQuantizationType[kind])
    model = tiny_llama(
        hidden_size=512,
        vocab_size=40000,
        intermediate_size=2560,
        num_hidden_layers=4,
        head_dim=64,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    large = write_gguf(tmp_path / "large.gguf", model, GGMLQuantizationType[kind])
    small_peak, _ = peak_and_size_mb(small, tmp_path / "small" / "model.safetensors")
    large_peak, size = peak_and_size_mb(large, tmp_path / "large" / "model.safetensors")
    large.unlink()
    assert size > 140
    assert large_peak - small_peak < 30


def test_the_demo_model_stays_below_a_third_of_its_float32_size(smollm2_gguf, tmp_path):
    peak, size = peak_and_size_mb(smollm2_gguf, tmp_path / "model.safetensors")
    assert size > 500
    assert peak < size / 3
