"""Hugging Face folders to canonical checkpoints: the same tensors, whatever their files and types."""

import itertools
import json
import os
import re
import zipfile

import pytest
import torch
from gguf_files import FAMILIES, tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import convert_checkpoint

SETTINGS = {"sha256": None, "params": None}


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


def save(model, folder, shards, pickled):
    """A folder as transformers writes it, or wrote it when weights were pickled."""
    model.save_pretrained(folder, max_shard_size="50KB" if shards else "1GB")
    if not pickled:
        return
    index = folder / "model.safetensors.index.json"
    if shards:
        text = re.sub(r"model(-[\w-]+).safetensors", r"pytorch_model\1.bin", index.read_text())
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    for file in folder.glob("*.safetensors"):
        torch.save(load_file(file), folder / f"pytorch_{file.stem}.bin")
        file.unlink()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_file_or_many_pickled_or_not_give_the_same_bytes_in_their_own_type(run_script, tiny_llama, tmp_path, dtype):
    model = tiny_llama().to(dtype)
    outputs = []
    for shards, pickled in itertools.product([False, True], repeat=2):
        folder = tmp_path / f"source-{shards}-{pickled}"
        save(model, folder, shards, pickled)
        assert len([*folder.glob("*model*")]) > 3 * shards
        outputs.append(tmp_path / f"checkpoint-{shards}-{pickled}" / "model.safetensors")
        run_script(convert_checkpoint.main, SETTINGS, source=folder, output=outputs[-1])
    assert len({file.read_bytes() for file in outputs}) == 1
    loaded = AutoModelForCausalLM.from_pretrained(outputs[0].parent)
    assert loaded.dtype == dtype
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    source_config = json.loads((tmp_path / "source-False-False" / "config.json").read_text())
    assert json.loads((outputs[0].parent / "config.json").read_text()) == source_config
    manifest = json.loads((outputs[-1].parent / "model.safetensors.manifest.json").read_text())
    assert {"config.json", "pytorch_model.bin.index.json"} < manifest["inputs"].keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_folder_is_taken_as_it_is(run_script, tmp_path, output, family):
    model = tiny(family)
    model.save_pretrained(tmp_path / "hf")
    run_script(convert_checkpoint.main, SETTINGS, source=tmp_path / "hf", output=output)
    loaded = AutoModelForCausalLM.from_pretrained(output.parent)
    assert loaded.config.to_dict() == {**model.config.to_dict(), "_name_or_path": str(output.parent)}
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_safetensors_are_read_where_pickled_weights_lie_beside_them(run_script, folder, output):
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    run_script(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    manifest = json.loads((output.parent / "model.safetensors.manifest.json").read_text())
    assert manifest["inputs"].keys() == {"config.json", "model.safetensors"}


def test_pickled_parameters_and_views_of_one_storage_are_read(run_script, folder, output):
    tensors = load_file(folder / "model.safetensors")
    norms = torch.stack([tensors[f"model.layers.{i}.input_layernorm.weight"] for i in range(2)])
    tensors |= {f"model.layers.{i}.input_layernorm.weight": norms[i] for i in range(2)}
    tensors["model.norm.weight"] = torch.nn.Parameter(tensors["model.norm.weight"])
    torch.save(tensors, folder / "pytorch_model.bin")
    expected = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    run_script(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    for name, value in load_file(output).items():
        assert torch.equal(value, expected[name]), name


class RunsACommand:
    def __reduce__(self):
        return os.system, ("touch executed",)


QUERY = "model.layers.0.self_attn.q_proj.weight"
PICKLED_FAULTS = {
    "code": ({"model.norm.weight": RunsACommand()}, ["more than tensors and plain values", "never unpickled"]),
    "transposed": ({QUERY: torch.ones(96, 192).t()}, [f"tensor {QUERY} is not contiguous"]),
    "integers": ({QUERY: torch.ones(192, 96, dtype=torch.int8)}, [QUERY, "torch.int8"]),
    "nested": ({"model": {"weight": torch.ones(2)}}, ["expected a state_dict"]),
    "nan": ({"model.norm.weight": torch.full((96,), torch.nan)}, ["model.norm.weight holds NaN or infinity"]),
}


@pytest.mark.parametrize("fault", PICKLED_FAULTS)
def test_pickled_weights_that_do_not_fit_are_refused_and_never_run(
    script_error, folder, output, tmp_path, monkeypatch, fault
):
    monkeypatch.chdir(tmp_path)
    changes, parts = PICKLED_FAULTS[fault]
    torch.save({**load_file(folder / "model.safetensors"), **changes}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    line = script_error(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert all(part in line for part in ["pytorch_model.bin" if fault != "nan" else "hf", *parts]), line
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("fault", ["old", "cut", "empty", "compressed", "packed"])
def test_files_that_torch_save_did_not_write_whole_are_refused(script_error, folder, output, fault):
    tensors, file = load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=fault != "old")
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    if fault == "empty":
        file.write_bytes(b"")
    if fault in ("compressed", "packed"):  # by another tool than torch.save
        with zipfile.ZipFile(file) as archive:
            records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if fault == "packed" else zipfile.ZIP_DEFLATED) as archive:
            for name, record in records.items():
                archive.writestr(name, record)
    (folder / "model.safetensors").unlink()
    line = script_error(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert "pytorch_model.bin" in line and "torch.save" in line


def test_a_tied_head_stored_twice_is_stored_once(run_script, folder, output):
    edit(folder, **{"lm_head.weight": load_file(folder / "model.safetensors")["model.embed_tokens.weight"]})
    run_script(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert "lm_head.weight" not in load_file(output)


def test_rotary_buffers_of_old_checkpoints_are_skipped(run_script, folder, output):
    edit(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})
    run_script(convert_checkpoint.main, SETTINGS, source=folder, output=output)
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
    line = script_error(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "falcon"}, ["model_type 'falcon' is not supported", "llama, gemma, gemma3_text, phi3"]),
        ({"hidden_size": None}, ["hidden_size must be a positive integer"]),
        ({"num_hidden_layers": "2"}, ["num_hidden_layers", "found '2'"]),
        ({"tie_word_embeddings": False}, ["lm_head.weight is missing", "[160, 96]"]),
        ({"attention_bias": True}, ["q_proj.bias is missing", "[192]"]),
    ],
)
def test_configs_that_do_not_fit_are_refused(script_error, folder, output, changes, parts):
    edit_config(folder, **changes)
    line = script_error(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert all(part in line for part in parts), line


def test_missing_and_malformed_files(script_error, tiny_llama, folder, output, tmp_path):
    def error(source=folder, **settings):
        return script_error(convert_checkpoint.main, {**SETTINGS, **settings}, source=source, output=output)

    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    assert "sha256 differs" in error(sha256="0" * 64)
    for damaged in (whole[:-3], whole[:100], whole[:5], b"", whole[:8] + b"x" + whole[9:]):
        weights.write_bytes(damaged)
        assert "model.safetensors" in error()
    (folder / "config.json").write_text("{")
    weights.write_bytes(whole)
    assert "not JSON" in error()

    sharded = tmp_path / "sharded"
    tiny_llama().save_pretrained(sharded, max_shard_size="50KB")
    assert "sha256 can check one file" in error(sharded, sha256="0" * 64)


def test_overlapping_shards_are_refused(script_error, folder, output):
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "in another file" in script_error(convert_checkpoint.main, SETTINGS, source=folder, output=output)


def test_a_multimodal_checkpoint_is_refused_by_its_tensors(script_error, folder, output):
    edit(folder, **{"vision_tower.patch_embedding.weight": torch.ones(4, 4)})
    line = script_error(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert "tensor vision_tower.patch_embedding.weight is surplus" in line and "found shape [4, 4]" in line
