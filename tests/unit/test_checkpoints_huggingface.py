"""Hugging Face folders to canonical checkpoints: the same tensors, whatever their files and types."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import checkpoint
from hexport.checkpoints.canonical import expected_shapes
from hexport.errors import HexportError


def edit(folder, file="model.safetensors", **changes):
    """Replace tensors of a saved model, or add them; None removes one."""
    tensors = {**load_file(folder / file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / file, {"format": "pt"})


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.fixture
def folder(tiny_llama, tmp_path):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "checkpoint" / "model.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_file_or_many_give_the_same_bytes_in_their_own_type(run_script, tiny_llama, tmp_path, dtype):
    model = tiny_llama().to(dtype)
    outputs = []
    for name, size in {"one": "1GB", "many": "50KB"}.items():
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        outputs.append(tmp_path / f"{name}-checkpoint" / "model.safetensors")
        run_script(checkpoint.main, {"sha256": None}, source=tmp_path / name, output=outputs[-1])
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    loaded = AutoModelForCausalLM.from_pretrained(outputs[0].parent)
    assert loaded.dtype == dtype
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    source_config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert json.loads((outputs[0].parent / "config.json").read_text()) == source_config
    manifest = json.loads((outputs[1].parent / "model.safetensors.manifest.json").read_text())
    assert len(manifest["inputs"]) > 3


def test_a_tied_head_stored_twice_is_stored_once(run_script, folder, output):
    edit(folder, **{"lm_head.weight": load_file(folder / "model.safetensors")["model.embed_tokens.weight"]})
    run_script(checkpoint.main, {"sha256": None}, source=folder, output=output)
    assert "lm_head.weight" not in load_file(output)


def test_rotary_buffers_of_old_checkpoints_are_skipped(run_script, folder, output):
    edit(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})
    run_script(checkpoint.main, {"sha256": None}, source=folder, output=output)
    assert not any("inv_freq" in name for name in load_file(output))


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({NORM: None}, [f"tensor {NORM} is missing", "[96]"]),
        ({NORM: torch.ones(95)}, [NORM, "expected shape [96]", "found [95]"]),
        ({"model.layers.2.input_layernorm.weight": torch.ones(96)}, ["layers.2", "surplus", "found shape [96]"]),
        ({"lm_head.weight": torch.ones(160, 96)}, ["lm_head.weight", "values differ"]),
        ({NORM: torch.ones(96, dtype=torch.int64)}, [NORM, "I64", "F32, F16, BF16"]),
        ({NORM: torch.full((96,), torch.nan)}, [NORM, "NaN or infinity"]),
        ({NORM: torch.full((96,), -torch.inf, dtype=torch.float16)}, [NORM, "NaN or infinity"]),
        ({NORM: torch.full((96,), torch.inf, dtype=torch.bfloat16)}, [NORM, "NaN or infinity"]),
        ({NORM: torch.full((96,), torch.nan, dtype=torch.bfloat16)}, [NORM, "NaN or infinity"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(script_error, folder, output, changes, parts):
    edit(folder, **changes)
    line = script_error(checkpoint.main, {"sha256": None}, source=folder, output=output)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "falcon"}, ["model_type is 'falcon'", "supported: llama"]),
        ({"hidden_size": None}, ["hidden_size must be a positive integer, found None"]),
        ({"num_hidden_layers": "2"}, ["num_hidden_layers", "found '2'"]),
        ({"tie_word_embeddings": False}, ["lm_head.weight is missing", "[160, 96]"]),
        ({"attention_bias": True}, ["q_proj.bias is missing", "[192]"]),
    ],
)
def test_configs_that_do_not_fit_are_refused(script_error, folder, output, changes, parts):
    edit_config(folder, **changes)
    line = script_error(checkpoint.main, {"sha256": None}, source=folder, output=output)
    assert all(part in line for part in parts), line


def test_missing_and_malformed_files(script_error, tiny_llama, folder, output, tmp_path):
    def error(source=folder, sha256=None):
        return script_error(checkpoint.main, {"sha256": sha256}, source=source, output=output)

    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    assert "sha256 differs" in error(sha256="0" * 64)
    for damaged in (whole[:-3], whole[:100], whole[:5], b"", whole[:8] + b"x" + whole[9:]):
        weights.write_bytes(damaged)
        assert "model.safetensors" in error()
    weights.unlink()
    assert "no *.safetensors file" in error()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "pickled weights" in error()
    (folder / "config.json").write_text("{")
    weights.write_bytes(whole)
    assert "not JSON" in error()
    (folder / "config.json").unlink()
    assert "config.json is missing" in error()

    sharded = tmp_path / "sharded"
    tiny_llama().save_pretrained(sharded, max_shard_size="50KB")
    assert "sha256 can check one file" in error(sharded, "0" * 64)
    shard = min(sharded.glob("*.safetensors"))
    shard.rename(tmp_path / shard.name)
    assert f"{shard.name} is not in the folder" in error(sharded)
    index = sharded / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    assert f"{shard.name} is not in the folder" in error(sharded)


def test_overlapping_shards_are_refused(script_error, folder, output):
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "in another file" in script_error(checkpoint.main, {"sha256": None}, source=folder, output=output)


def test_shapes_follow_the_config_as_in_transformers(tiny_llama):
    for changes in ({}, {"attention_bias": True}, {"mlp_bias": True}, {"num_hidden_layers": 3}):
        model = tiny_llama(**changes)
        expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        assert expected_shapes(model.config.to_dict(), "config") == expected
    config = model.config.to_dict() | {"head_dim": None, "num_key_value_heads": None}
    assert expected_shapes(config, "config")["model.layers.0.self_attn.k_proj.weight"] == (96, 96)
    with pytest.raises(HexportError, match="num_attention_heads must be a positive integer"):
        expected_shapes(config | {"num_attention_heads": 0}, "config")
