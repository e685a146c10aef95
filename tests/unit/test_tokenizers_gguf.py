"""Tokenizers from GGUF metadata encode and decode as the tokenizers that the metadata was made from."""

import json
import re

import pytest
from gguf import GGUFWriter, TokenType
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from small_tokenizers import (
    PIPELINES,
    SPECIAL,
    SYMBOLS,
    UNMERGED,
    USER_DEFINED,
    convert,
    reference,
    sentencepiece_model,
)
from transformers import AutoTokenizer

import extract_tokenizer as script
from hexport.tokenizers.tokenizer import load_tokenizer

TEXT = st.text() | st.lists(
    st.sampled_from(
        [
            *SPECIAL,
            USER_DEFINED,
            UNMERGED,
            " ",
            "   ",
            "\n",
            "\r\n",
            "7",
            "'LL",
            "é",
            "e\u0301",
            "中",
            "😀",
            "the",
            "\x00",
        ]
    )
    | st.text(max_size=3)
).map("".join)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

RECORDED = {
    "Once upon a time": [6403, 1980, 253, 655],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "3.14159 x² ½ ٣": [35, 30, 33, 36, 33, 37, 41, 1792, 19133, 216, 16738, 216, 164, 113],
    "don't I'LL  we'Re": [12420, 982, 339, 23, 16421, 216, 392, 23, 3733],
    " " * 40 + "x": [12427, 415, 1792],
    "naïve 中文 한국어": [3546, 46494, 216, 28589, 29184, 216, 33085, 246, 181, 130, 251, 183, 240, 129],
    "😀👨\u200d👩\u200d👧": [10813, 242, 218, 10813, 235, 118, 321, 231, 10813, 235, 119, 321, 231, 10813, 235, 117],
    "\x00\x01\x7f\t\r\n": [190, 191, 217, 197, 2738],
    "": [],
}


def write_gguf(path, backend, pre, padding=0, architecture="llama", **metadata):
    """Write a vocabulary as llama.cpp's converter does; `metadata` is added below `tokenizer.`."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=vocabulary.get) + [f"[PAD{i}]" for i in range(padding)]
    types = [TokenType.NORMAL] * len(vocabulary) + [TokenType.UNUSED] * padding
    for token in SPECIAL:
        types[vocabulary[token]] = TokenType.CONTROL
    types[vocabulary[USER_DEFINED]] = TokenType.USER_DEFINED
    writer = GGUFWriter(path, architecture)
    keys = {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": tokens,
        "ggml.token_type": [int(kind) for kind in types],
        "ggml.merges": [" ".join(merge) for merge in json.loads(backend.to_str())["model"]["merges"]],
        "ggml.bos_token_id": vocabulary["<|im_start|>"],
        "ggml.eos_token_id": vocabulary["<|im_end|>"],
        **{key.replace("__", "."): value for key, value in metadata.items()},
    }
    return write_metadata(writer, keys)


def write_metadata(writer, keys):
    add = {int: writer.add_uint32, bool: writer.add_bool, str: writer.add_string, list: writer.add_array}
    for key, value in keys.items():
        if value is not None:
            add[type(value)](f"tokenizer.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return writer.path


def write_sentencepiece_gguf(path, model, **metadata):
    """As llama.cpp's _set_vocab_sentencepiece does, where tokenizer_config.json lists the user-defined symbols."""
    pieces = ModelProto.FromString(model).pieces
    user_defined = [piece.type == TokenType.USER_DEFINED for piece in pieces]
    keys = {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.tokens": [
            p.piece.replace("▁", " ") if is_ud else p.piece for p, is_ud in zip(pieces, user_defined, strict=True)
        ],
        "ggml.scores": [-1000.0 if is_ud else p.score for p, is_ud in zip(pieces, user_defined, strict=True)],
        "ggml.token_type": [piece.type for piece in pieces],
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
        **{key.replace("__", "."): value for key, value in metadata.items()},
    }
    return write_metadata(GGUFWriter(path, "gemma"), keys)


@pytest.fixture(scope="module", params=list(PIPELINES))
def converted(request, tmp_path_factory):
    """(reference tokenizer, our Tokenizer, transformers' tokenizer of our folder) of one kind of GGUF vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    backend = reference(request.param)
    source = write_gguf(folder / "model.gguf", backend, request.param, padding=5)
    return backend, convert(source, folder / "out"), AutoTokenizer.from_pretrained(folder / "out")


@QUICK
@given(text=TEXT)
def test_gguf_ids_and_text_equal_the_original_tokenizers(converted, text):
    backend, ours, theirs = converted
    ids = backend.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == ids
    assert ours.encode(text, bos=ours.adds_bos) == theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids) == backend.decode(ids, skip_special_tokens=False)


def test_long_runs_of_spaces_and_the_empty_text(converted):
    backend, ours, _ = converted
    for text in ("", UNMERGED, " " * 1000, " " * 999 + "x", "\n" * 300):
        assert ours.encode(text) == backend.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.encode("", bos=True) == [ours.bos_id]


def test_padding_of_the_vocabulary_is_no_token(converted):
    backend, ours, _ = converted
    assert ours.vocab_size == backend.get_vocab_size()
    assert ours.encode("[PAD0]") == backend.encode("[PAD0]").ids


def test_ids_of_special_tokens(converted):
    backend, ours, theirs = converted
    assert (ours.bos_id, ours.eos_id) == (1, 2) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.stop_ids == {0, 1, 2}  # <|endoftext|> by its name, BOS without a chat template, <|im_end|>
    assert ours.adds_bos is (backend.encode("a").ids != theirs.encode("a"))


def test_end_of_turn_ids_of_gguf_metadata_stop_too(run_script, tmp_path):
    backend = reference("smollm")
    backend_id = backend.token_to_id("Ġt")
    source = write_gguf(tmp_path / "model.gguf", backend, "smollm", ggml__eot_token_id=backend_id)
    run_script(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    assert load_tokenizer(tmp_path / "out").stop_ids == {0, 1, 2, backend_id}


def test_a_bos_that_the_file_asks_for(run_script, tmp_path):
    source = write_gguf(tmp_path / "model.gguf", reference("smollm"), "smollm", ggml__add_bos_token=True)
    run_script(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    ours = load_tokenizer(tmp_path / "out")
    assert ours.adds_bos
    assert ours.prompt_ids("time") == AutoTokenizer.from_pretrained(tmp_path / "out").encode("time")
    assert ours.prompt_ids("time") == [ours.bos_id, *ours.encode("time")]
    assert ours.backend.encode("time").ids == ours.prompt_ids("time")  # tokenizer.json alone does it too


@pytest.fixture(scope="module", params=["llama", "llama with symbols", "gemma"])
def pieces(request, tmp_path_factory):
    """(sentencepiece's processor, our Tokenizer of a GGUF file with its pieces) of one kind of model."""
    folder, model = tmp_path_factory.mktemp("pieces"), sentencepiece_model(request.param)
    prefix = None if request.param.startswith("llama") else False
    source = write_sentencepiece_gguf(folder / "model.gguf", model, ggml__add_space_prefix=prefix)
    return SentencePieceProcessor(model_proto=model), convert(source, folder / "out")


@QUICK
@given(text=TEXT | st.lists(st.sampled_from([*SYMBOLS, " ", "   ", "\t", "x", "<0x41>"])).map("".join))
def test_pieces_of_gguf_files_equal_sentencepiece(pieces, text):
    theirs, ours = pieces
    assume(not re.search("<unk>|<s>|</s>", text))  # text to sentencepiece, tokens to us
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)


def test_special_tokens_among_pieces_of_gguf_files(pieces):
    _, ours = pieces
    assert (ours.bos_id, ours.eos_id, ours.adds_bos, ours.stop_ids) == (1, 2, True, {1, 2})
    assert ours.prompt_ids("time") == [1, *ours.encode("time")]


@pytest.mark.parametrize(("architecture", "strips"), [("phi3", True), ("llama", False)])
def test_control_tokens_of_phi_take_the_white_space_after_them(run_script, tmp_path, architecture, strips):
    source = write_gguf(tmp_path / "model.gguf", reference("gpt-4o"), "gpt-4o", architecture=architecture)
    run_script(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    ours = load_tokenizer(tmp_path / "out")
    assert (ours.encode("<|im_end|> \n time") == ours.encode("<|im_end|>time")) is strips
    assert ours.encode("<|endoftext|> time") != ours.encode("<|endoftext|>time")


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        ({"ggml__pre": "deepseek-v9"}, "tokenizer.ggml.pre is 'deepseek-v9'; supported: gpt-2, smollm"),
        ({"ggml__pre": None}, "tokenizer.ggml.pre is None"),
        ({"ggml__model": "bert"}, "tokenizer.ggml.model is 'bert'; supported: 'gpt2'"),
        ({"ggml__model": "llama"}, "tokenizer.ggml.scores do not fit"),
        ({"ggml__tokens": None}, "tokenizer.ggml.tokens"),
        ({"ggml__merges": None}, "merges are missing"),
        ({"ggml__merges": ["no such"]}, "tokenizer.ggml.merges do not fit"),
        ({"ggml__merges": ["one"]}, "tokenizer.ggml.merges do not fit"),
        ({"ggml__token_type": [1, 2]}, "do not fit each other"),
        ({"ggml__eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id is 1000000"),
        ({"ggml__bos_token_id": None, "ggml__add_bos_token": True}, "no bos_token_id"),
    ],
)
def test_gguf_vocabularies_that_are_not_understood(script_error, tmp_path, metadata, part):
    source = write_gguf(tmp_path / "model.gguf", reference("smollm"), "smollm", **metadata)
    line = script_error(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    assert part in line
    assert "model.gguf" in line


def test_smollm2(run_script, smollm2_gguf, tmp_path):
    """Ids recorded from HuggingFaceTB/SmolLM2-135M-Instruct's own tokenizer.json."""
    run_script(script.main, {}, source=smollm2_gguf, output=tmp_path / "out" / "tokenizer.json")
    ours = load_tokenizer(tmp_path / "out")
    for text, ids in RECORDED.items():
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == text
    assert ours.vocab_size == 49152
