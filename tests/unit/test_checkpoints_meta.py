"""Meta's consolidated.*.pth and llama2.c's .pt to canonical checkpoints that transformers loads."""

import json

import pytest
import torch
from meta_files import PARAMS, assert_loads_as, meta_sized, meta_state, write_meta

import convert_checkpoint
from hexport.checkpoints.meta_params import llama_config
from hexport.errors import HexportError

SETTINGS = {"sha256": None, "params": None}


@pytest.fixture
def model(tiny_llama):
    return meta_sized(tiny_llama)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shards", "embedding_dim"), [(1, 0), (2, 0), (2, 1), (4, 0), (4, 1)])
def test_shards_give_the_models_own_tensors_and_logits(
    run_script, model, tmp_path, output, dtype, shards, embedding_dim
):
    model = model.to(dtype)
    source = write_meta(tmp_path / "meta", meta_state(model), shards=shards, embedding_dim=embedding_dim)
    run_script(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert_loads_as(output, model)
    manifest = json.loads((output.parent / "model.safetensors.manifest.json").read_text())
    assert len(manifest["inputs"]) == 1 + shards


def test_a_head_equal_to_the_embedding_is_stored_once(run_script, tiny_llama, tmp_path, output):
    model = meta_sized(tiny_llama, tie_word_embeddings=True)
    assert "output.weight" in meta_state(model)
    run_script(
        convert_checkpoint.main, SETTINGS, source=write_meta(tmp_path / "meta", meta_state(model)), output=output
    )
    assert json.loads(output.with_name("config.json").read_text())["tie_word_embeddings"] is True
    assert_loads_as(output, model)


def test_params_may_lie_elsewhere_and_one_file_is_enough(run_script, model, tmp_path, output):
    source = write_meta(tmp_path / "meta", meta_state(model))
    (source / "params.json").rename(tmp_path / "mine.json")
    settings = {"sha256": None, "params": str(tmp_path / "mine.json")}
    for path in (source, source / "consolidated.00.pth"):
        run_script(convert_checkpoint.main, settings, source=path, output=output)
        assert_loads_as(output, model)


def test_a_training_checkpoint_of_llama2c_says_its_own_params(run_script, model, tmp_path, output):
    state = {f"_orig_mod.{name}": value for name, value in meta_state(model).items()}
    state["_orig_mod.freqs_cos"] = torch.ones(16, 4)
    args = {**PARAMS, "vocab_size": 160, "max_seq_len": 16, "dropout": 0.1, "multiple_of": 4}
    file = tmp_path / "stories.pt"
    torch.save({"model": state, "model_args": args, "iter_num": 7, "best_val_loss": torch.tensor(1.0)}, file)
    run_script(convert_checkpoint.main, SETTINGS, source=file, output=output)
    assert_loads_as(output, model)
    (tmp_path / "params.json").write_text(json.dumps({"dim": 64, "n_layers": 2, "vocab_size": -1}))
    settings = {"sha256": None, "params": str(tmp_path / "params.json")}
    run_script(convert_checkpoint.main, settings, source=file, output=output)
    assert_loads_as(output, model)


def test_a_bare_state_dict_needs_params(run_script, script_error, model, tmp_path, output):
    file = tmp_path / "stories.pt"
    torch.save(meta_state(model), file)
    assert "has no model_args; name its params.json" in script_error(
        convert_checkpoint.main, SETTINGS, source=file, output=output
    )
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    run_script(
        convert_checkpoint.main, {"sha256": None, "params": str(tmp_path / "params.json")}, source=file, output=output
    )
    assert_loads_as(output, model)


WQ, NORM = "layers.1.attention.wq.weight", "layers.1.ffn_norm.weight"
STATE_FAULTS = {
    "missing": ({NORM: None}, ["layers.1.post_attention_layernorm.weight is missing", "[64]"]),
    "misshapen": ({WQ: torch.ones(32, 64)}, ["layers.1.self_attn.q_proj", "expected shape [64, 64]", "found [32, 64]"]),
    "no_embedding": ({"tok_embeddings.weight": None}, ["model.embed_tokens.weight is missing"]),
    "no_feed_forward": ({"layers.0.feed_forward.w1.weight": None}, ["mlp.gate_proj.weight is missing"]),
    "unknown": ({"layers.0.feed_forward.gate.weight": torch.ones(2)}, ["feed_forward.gate.weight is unknown"]),
    "bias": ({"layers.0.attention.wq.bias": torch.ones(64)}, ["layers.0.attention.wq.bias is unknown"]),
    "surplus": ({"layers.2.ffn_norm.weight": torch.ones(64)}, ["layers.2.", "surplus"]),
    "type": ({NORM: torch.ones(64, dtype=torch.float64)}, [NORM, "float64"]),
    "infinity": ({NORM: torch.full((64,), torch.inf)}, ["layers.1.post_attention_layernorm", "NaN or infinity"]),
    "nested": ({"optimizer": {"a": torch.ones(2)}}, ["expected names with tensors"]),
}


@pytest.mark.parametrize("fault", STATE_FAULTS)
def test_tensors_that_do_not_fit_are_named(script_error, model, tmp_path, output, fault):
    changes, parts = STATE_FAULTS[fault]
    state = {name: value for name, value in {**meta_state(model), **changes}.items() if value is not None}
    source = tmp_path / "meta"
    source.mkdir()
    (source / "params.json").write_text(json.dumps(PARAMS))
    torch.save(state, source / "consolidated.00.pth")
    line = script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert all(part in line for part in parts), line


PARAMS_FAULTS = {
    "unknown": ({"moe": {"num_experts": 8}}, ["moe: {'num_experts': 8} is not supported"]),
    "missing": ({"n_layers": None}, ["n_layers must be a positive integer, it is missing"]),
    "text": ({"n_heads": "8"}, ["n_heads must be a positive integer, found '8'"]),
    "uneven": ({"n_heads": 7}, ["dim 64 is not a multiple of n_heads 7"]),
    "vocabulary": ({"vocab_size": 32000}, ["vocab_size is 32000", "have 160"]),
    "feed_forward": ({"multiple_of": 256}, ["make 256 rows of w1, found 172"]),
    "scaled_rope": ({"use_scaled_rope": True}, ["use_scaled_rope", '"rope_scaling_factor"', "2 layers and dim 64"]),
    "factor_alone": ({"rope_scaling_factor": 8}, ["rope_scaling_factor is 8", "use_scaled_rope is not true"]),
    "rope_text": ({"rope_scaling": "linear"}, ["expected rope_scaling to be an object", "'linear'"]),
    "rope_other": ({"my_rope_scaling": {"factor": 4.0}}, ["my_rope_scaling: {'factor': 4.0} is not supported"]),
    "scaled_text": ({"use_scaled_rope": "false"}, ["use_scaled_rope must be true or false, found 'false'"]),
    "infinite": ({"ffn_dim_multiplier": 3e300}, ["ffn_dim_multiplier must be at most 3e+38"]),
    "half": ({"multiple_of": 4.5}, ["multiple_of must be a positive integer, found 4.5"]),
    "huge": ({"rope_theta": 10**400}, ["params.json: not JSON: the number 1000", "beyond float64"]),
    "quantised": ({"quantization_args": {"scheme": "int4"}}, ["quantization_args", "is not supported"]),
    "adapter": ({"lora_args": {"rank": 16}}, ["lora_args: {'rank': 16} is not supported"]),
    "rope_kind": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, ["'yarn' is not supported"]),
    "heads": ({"n_kv_heads": 2}, ["layers.0.self_attn.k_proj", "expected shape [16, 64]", "found [32, 64]"]),
}


@pytest.mark.parametrize("fault", PARAMS_FAULTS)
def test_params_that_do_not_fit_are_refused_by_name(script_error, model, tmp_path, output, fault):
    changes, parts = PARAMS_FAULTS[fault]
    source = write_meta(tmp_path / "meta", meta_state(model), {**PARAMS, **changes})
    line = script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert all(part in line for part in parts), line


def test_shards_that_do_not_fit_each_other_are_refused(script_error, model, tmp_path, output):
    source = write_meta(tmp_path / "meta", meta_state(model), shards=4)
    last = source / "consolidated.03.pth"

    def error():
        return script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)

    whole = torch.load(last)
    for changed in (
        {**whole, WQ: torch.ones(8, 64)},
        {**whole, WQ: whole[WQ].half()},
        {name: value for name, value in whole.items() if name != WQ},
        {**whole, "layers.7.attention.wq.weight": torch.ones(2, 2)},
    ):
        torch.save(changed, last)
        assert "attention.wq.weight is not in every shard" in error()
    last.rename(source / "consolidated.04.pth")
    assert "consolidated.03.pth is missing" in error()
    (source / "consolidated.04.pth").unlink()
    assert "n_heads 8 do not divide among 3 files" in error()
    (source / "consolidated.02.pth").unlink()
    assert "make 172 rows of w1, found 86" in error()


def test_params_that_contradict_the_weights_own_are_refused(script_error, model, tmp_path, output):
    file = tmp_path / "stories.pt"
    torch.save({"model": meta_state(model), "model_args": {**PARAMS, "vocab_size": 160}}, file)
    (tmp_path / "params.json").write_text(json.dumps({"n_heads": 4}))
    settings = {"sha256": None, "params": str(tmp_path / "params.json")}
    line = script_error(convert_checkpoint.main, settings, source=file, output=output)
    assert "params.json: n_heads is 4, but stories.pt says 8" in line


LLAMA_3_2_1B = {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256}
LLAMA_3_2_1B |= {"ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-05, "rope_theta": 500000.0}
LLAMA_3_2_1B |= {"use_scaled_rope": True}
LLAMA_3_1_8B = {**LLAMA_3_2_1B, "dim": 4096, "n_layers": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024}
LLAMA_3_8B = {**LLAMA_3_1_8B, "use_scaled_rope": False}
LLAMA_2_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1}
STORIES_110M = {"dim": 768, "multiple_of": 32, "n_heads": 12, "n_layers": 12, "norm_eps": 1e-05, "vocab_size": 32000}
TINY_SCALED = {**LLAMA_3_2_1B, "n_layers": 1}


@pytest.mark.parametrize(
    ("params", "ffn_size", "vocab_size", "factor"),
    [
        (LLAMA_3_2_1B, 8192, 128256, 32.0),
        (LLAMA_3_1_8B, 14336, 128256, 8.0),
        (LLAMA_3_8B, 14336, 128256, None),
        (LLAMA_2_7B, 11008, 32000, None),
        (STORIES_110M, 2048, 32000, None),
        ({**TINY_SCALED, "rope_scaling_factor": 16}, 8192, 128256, 16.0),
        ({**TINY_SCALED, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 8192, 128256, 4.0),
        ({**TINY_SCALED, "rope_scaling": {"factor": 4.0}}, 8192, 128256, 4.0),
    ],
)
def test_published_params_give_the_published_hugging_face_config(params, ffn_size, vocab_size, factor):
    config = llama_config(params, ffn_size, vocab_size, "params.json")
    assert config.get("rope_scaling", {}).get("factor") == factor
    assert config["rope_theta"] == params.get("rope_theta", 10000.0)
    assert config["num_key_value_heads"] == params.get("n_kv_heads", params["n_heads"])
    with pytest.raises(HexportError, match="rows of w1"):
        llama_config(params, ffn_size + 1, vocab_size, "params.json")


def test_llama_3s_scaling_has_metas_constants():
    assert llama_config(LLAMA_3_2_1B, 8192, 128256, "params.json")["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
