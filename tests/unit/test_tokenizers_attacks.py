"""Tokenizer files that are hostile or damaged: one line each, and nothing else on the terminal."""

import json
import os
import random
import time

import pytest
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from small_tokenizers import reference, sentencepiece_model

import copy_tokenizer_model
import extract_tokenizer as script
import write_tokenizer_bin
from hexport.errors import HexportError
from hexport.tokenizers.tokenizer import load_tokenizer

CONFIG = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hf").mkdir()
    reference("llama-bpe").save(str(tmp_path / "hf/tokenizer.json"))
    (tmp_path / "hf/tokenizer_config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "hf"


@pytest.fixture
def error(script_error, tmp_path, capfd):
    """The line, and that the tokenizers library has written none of its own beside it."""

    def of(source, main=script.main) -> str:
        line = script_error(main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
        assert capfd.readouterr().err == ""
        return line

    return of


SEQUENCE_A = {"Sequence": {"id": "A", "type_id": 0}}
PROCESSORS = {
    "a token that is not there": {
        "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, SEQUENCE_A],
        "pair": [],
        "special_tokens": {},
    },
    "a second text": {"single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [], "special_tokens": {}},
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_panic_of_the_library_is_one_line(error, folder, processor):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = {"type": "TemplateProcessing", **PROCESSORS[processor]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "tokenizer.json: the tokenizers library cannot read it: " in error(folder)


JSONS = {
    "empty": b"",
    "deep": b'{"a":' * 100_000,
    "a list": b"[]",
    "NaN": b'{"model_max_length": NaN}',
    "infinity": b'{"model_max_length": Infinity}',
    "beyond float64": b'{"model_max_length": 1e999}',
    "half a pair": b'{"chat_template": "\\ud800"}',
    "a key twice": b'{"bos_token": "a", "bos_token": "b"}',
    "not UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("content", JSONS)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
def test_a_file_beside_the_tokenizer_that_is_no_json_is_one_line(error, folder, name, content):
    (folder / name).write_bytes(JSONS[content])
    assert f"{name}: " in error(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"model": {"type": "BPE"}}'])
def test_a_tokenizer_json_that_is_none_is_one_line(error, folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json: the tokenizers library cannot read it" in error(folder)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"add_bos_token": "false"}, "add_bos_token must be true or false, found 'false'"),
        ({"chat_template": 7}, "chat_template is neither a text nor a list"),
        ({"chat_template": [{"name": [], "template": "a"}]}, "chat_template is neither a text nor a list"),
        ({"chat_template": [{"name": "default", "template": 7}]}, "chat_template is neither a text nor a list"),
        ({"bos_token": "nowhere"}, "bos_token 'nowhere' is not in the vocabulary"),
    ],
)
def test_a_value_of_another_type_is_one_line(error, folder, changes, part):
    (folder / "tokenizer_config.json").write_text(json.dumps({**CONFIG, **changes}))
    assert part in error(folder)


@pytest.mark.parametrize("ids", ["<|im_end|>", [-1], [2**40], [True, "a"], 1.5, {"a": 1}])
def test_an_end_that_is_no_id_is_one_line(error, folder, ids):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    assert "eos_token_id of generation_config.json or config.json has" in error(folder)


@pytest.mark.parametrize("added", [[], {"a": 7}, {"1": {}}, {"1": {"content": 7}}, {str(2**70): {"content": "a"}}])
def test_added_tokens_of_another_form_are_one_line(error, tmp_path, added):
    (tmp_path / "sp").mkdir()
    (tmp_path / "sp/tokenizer.model").write_bytes(sentencepiece_model("llama"))
    (tmp_path / "sp/tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    error(tmp_path / "sp")


@pytest.mark.parametrize(
    "content", [b"", b"\x0a\x80\x80\x80\x80\x10", b"\x0a\x05\x0a\x03abc", random.Random(0).randbytes(2000), b"YQ== x\n"]
)
def test_a_model_file_that_is_none_is_one_line(error, tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    error(tmp_path / "tokenizer.model")


def test_a_piece_without_end_is_one_line_at_once(error, tmp_path):
    """Every cut of a token is tried: with the square of its length."""
    model = ModelProto.FromString(sentencepiece_model("llama"))
    max(model.pieces, key=lambda piece: len(piece.piece) * (piece.type == 1)).piece = "a" * 5000
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    start = time.monotonic()
    assert "has a token of 5000 characters, more than 512" in error(tmp_path / "tokenizer.model")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("name", ["tokenizer.model", "x.gguf", "tokenizer.json"])
@pytest.mark.parametrize("main", [script.main, write_tokenizer_bin.main, copy_tokenizer_model.main])
def test_a_pipe_is_one_line(error, tmp_path, name, main):
    os.mkfifo(tmp_path / name)
    assert "is a pipe, a socket or a device" in error(tmp_path / name, main)


@pytest.mark.parametrize(
    "changes", [{"stop_tokens": 7}, {"stop_tokens": [7]}, {"add_bos_token": "no"}, {"chat_template": []}]
)
def test_a_config_edited_by_hand_is_one_line(folder, changes):
    config = {**CONFIG, "add_bos_token": True, "stop_tokens": [], **changes}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(HexportError, match=r"is not one that scripts/extract_tokenizer\.py wrote"):
        load_tokenizer(folder)
