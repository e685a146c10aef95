"""llama2.c's .bin files, written as its export.py writes them, to canonical checkpoints that transformers loads."""

import json
import struct

import numpy as np
import pytest
import torch
from meta_files import assert_loads_as, meta_sized, meta_state

import convert_checkpoint

SETTINGS = {"sha256": None, "params": None}
PARTS = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
FEED_FORWARD = ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]


def build(tiny_llama, tied):
    """rms_norm_eps and rope_theta are not in the file: llama2.c fixes them."""
    return meta_sized(tiny_llama, tie_word_embeddings=tied, rms_norm_eps=1e-5, rope_theta=10000.0)


def header(model, tied, version):
    vocab = -160 if version == 0 and not tied else 160
    sizes = struct.pack("<7i", 64, 172, model.config.num_hidden_layers, 8, 4, vocab, 16)
    if version == 0:
        return sizes
    return (struct.pack("<Ii", 0x616B3432, version) + sizes + bytes([tied])).ljust(256, b"\0")


def write_bin(path, model, tied, version):
    """legacy_export (version 0) and version1_export of llama2.c's export.py."""
    state = meta_state(model)

    def layers(part):
        return [state[f"layers.{i}.{part}.weight"] for i in range(model.config.num_hidden_layers)]

    def every(parts):
        return [tensor for part in parts for tensor in layers(part)]

    embedding, norm = state["tok_embeddings.weight"], state["norm.weight"]
    if version == 0:
        tables = [torch.full((16, 4), 0.5), torch.full((16, 4), 0.25)]
        tensors = [embedding, *every(["attention_norm", *PARTS, "ffn_norm", *FEED_FORWARD]), norm, *tables]
    else:
        tensors = [*every(["attention_norm", "ffn_norm"]), norm, embedding, *every(PARTS + FEED_FORWARD)]
    if not tied:
        tensors.append(state["output.weight"])
    body = b"".join(np.ascontiguousarray(tensor.numpy()).tobytes() for tensor in tensors)
    path.write_bytes(header(model, tied, version) + body)
    return path


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_both_versions_give_the_models_own_tensors_and_logits(run_script, tiny_llama, tmp_path, output, version, tied):
    model = build(tiny_llama, tied)
    source = write_bin(tmp_path / "stories.bin", model, tied, version)
    run_script(convert_checkpoint.main, SETTINGS, source=source, output=output)
    config = json.loads(output.with_name("config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    assert config["max_position_embeddings"] == 16
    assert_loads_as(output, model)


def test_the_same_model_as_bin_and_as_state_dict_gives_the_same_bytes(run_script, tiny_llama, tmp_path, output):
    model = build(tiny_llama, True)
    args = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 160, "max_seq_len": 16}
    torch.save({"model": meta_state(model), "model_args": args}, tmp_path / "stories.pt")
    write_bin(tmp_path / "stories.bin", model, True, 0)
    written = []
    for name in ("stories.pt", "stories.bin"):
        run_script(convert_checkpoint.main, SETTINGS, source=tmp_path / name, output=output)
        written.append((output.read_bytes(), output.with_name("config.json").read_bytes()))
    assert written[0] == written[1]


def test_params_complete_what_the_header_lacks_and_must_not_contradict_it(
    run_script, script_error, tiny_llama, tmp_path, output
):
    source = write_bin(tmp_path / "stories.bin", build(tiny_llama, True), True, 0)
    params = tmp_path / "params.json"
    settings = {"sha256": None, "params": str(params)}
    params.write_text(json.dumps({"dim": 64, "norm_eps": 1e-6, "multiple_of": 4, "vocab_size": -1}))
    run_script(convert_checkpoint.main, settings, source=source, output=output)
    assert json.loads(output.with_name("config.json").read_text())["rms_norm_eps"] == 1e-6
    params.write_text(json.dumps({"dim": 768}))
    line = script_error(
        convert_checkpoint.main, settings, source=source, output=tmp_path / "other" / "model.safetensors"
    )
    assert "params.json: dim is 768, but stories.bin says 64" in line


def test_files_that_are_no_whole_model_are_refused(script_error, tiny_llama, tmp_path, output):
    def error():
        return script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)

    model = build(tiny_llama, True)
    for version in (0, 1):
        source = write_bin(tmp_path / "stories.bin", model, True, version)
        whole = source.read_bytes()
        for damaged in (whole[:-4], whole + b"\0\0\0\0"):
            source.write_bytes(damaged)
            assert f"stories.bin: not a whole model of llama2.c: {len(damaged)} bytes" in error()
    millions_of_layers = struct.pack("<7i", 64, 172, (1 << 24) - 1, 8, 4, 160, 16)
    source.write_bytes(millions_of_layers + bytes(1000))
    assert "stories.bin: not a whole model of llama2.c: 1028 bytes" in error()
    source.write_bytes(header(model, True, 2))
    assert "version 2 of llama2.c's format (2 is int8)" in error()
    for rubbish in (b"", b"x" * 100, b"x" * 1000, bytes(1000)):
        source.write_bytes(rubbish)
        assert "stories.bin: not a model of llama2.c" in error()
    torch.save({}, source)
    assert "not a model of llama2.c" in error() and "named by its folder" in error()
