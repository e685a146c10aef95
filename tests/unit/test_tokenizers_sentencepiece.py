"""SentencePiece models: the tokenizer.json made of a tokenizer.model equals the sentencepiece library."""

import json
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from small_tokenizers import (
    CORPUS,
    SENTENCEPIECE,
    SYMBOLS,
    convert,
    reference,
    sentencepiece_model,
    train_sentencepiece,
)
from transformers import AutoTokenizer

import extract_tokenizer as script
from hexport.errors import HexportError
from hexport.tokenizers.probe import check_equal

PARTS = [*SYMBOLS, " ", "  ", "       ", "▁", "\n", "\t\t", "7", "é", "e\u0301", "中", "😀", "the", "\0", "<0x41>", "<"]
TEXT = st.text() | st.lists(st.sampled_from(PARTS) | st.text(max_size=3)).map("".join)
CONTROL = re.compile("<unk>|<s>|</s>")  # text to sentencepiece, tokens to us: see the test of control pieces
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=list(SENTENCEPIECE))
def both(request, tmp_path_factory):
    """(sentencepiece's processor, our Tokenizer, transformers' tokenizer of our folder) of one kind of model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    source = save(folder, sentencepiece_model(request.param))
    theirs = SentencePieceProcessor(model_file=str(source))
    return theirs, convert(source, folder / "out"), AutoTokenizer.from_pretrained(folder / "out")


def save(folder, model):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    return folder / "tokenizer.model"


def write(path, value):
    path.write_text(json.dumps(value))


@QUICK
@given(text=TEXT)
def test_ids_and_text_equal_sentencepiece(both, text):
    theirs, ours, transformers = both
    assume(not CONTROL.search(text))
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.encode(text, bos=ours.adds_bos) == transformers.encode(text) == theirs.encode(text, add_bos=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "time",
        " time",
        "time ",
        "  time  ",
        " " * 500,
        " " * 501 + "x",
        "\n" * 300,
        "a" * 300,
        *SYMBOLS,
        *CORPUS,
    ],
)
def test_written_samples_equal_sentencepiece(both, text):
    theirs, ours, _ = both
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_bos_and_eos_come_from_the_model(both):
    theirs, ours, _ = both
    assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (
        theirs.bos_id(),
        theirs.eos_id(),
        {theirs.bos_id(), theirs.eos_id()},
    )
    assert ours.prompt_ids("time") == theirs.encode("time", add_bos=True)
    assert ours.vocab_size == theirs.vocab_size()


def test_control_pieces_spelled_out_are_tokens_and_what_follows_starts_anew(both):
    theirs, ours, _ = both
    assert ours.encode("<s>time</s>time") == [1, *theirs.encode("time"), 2, *theirs.encode("time")]


def test_tabs_that_only_longer_pieces_hold(tmp_path):
    """As in Gemma: a tab is a byte piece, but two tabs are a piece of their own."""
    model = ModelProto.FromString(sentencepiece_model("gemma"))
    normal = [piece for piece in model.pieces if piece.type == ModelProto.SentencePiece.NORMAL]
    next(piece for piece in normal if piece.piece == "\t").piece = "\u0100"
    next(piece for piece in normal if len(piece.piece) == 2).piece = "\t\t"
    source = save(tmp_path, model.SerializeToString())
    theirs, ours = SentencePieceProcessor(model_file=str(source)), convert(source, tmp_path / "out")
    assert theirs.piece_to_id("\t\t") in theirs.encode("a\t\tb")
    for text in ("\t", "\t\t", "\t\t\t", "a\tb\t\tc", "\t中\t\t"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_files_beside_the_model_count(tmp_path):
    source = save(tmp_path / "hf", sentencepiece_model("gemma"))
    config = {"eos_token": "<b>", "add_bos_token": False, "added_tokens_decoder": {"600": {"content": "<|im_end|>"}}}
    write(source.with_name("tokenizer_config.json"), config)
    write(source.with_name("chat_template.json"), {"chat_template": "{{ eos_token + messages[0].content }}"})
    write(source.with_name("generation_config.json"), {"eos_token_id": [7]})
    write(source.with_name("added_tokens.json"), {"<pad>": 601})
    ours = convert(source.parent, tmp_path / "out")
    assert ours.encode("<|im_end|>a<pad>") == [600, *ours.encode("a"), 601]
    assert ours.stop_ids == {ours.eos_id, 600, 7}
    assert ours.backend.id_to_token(ours.eos_id) == "<b>"
    assert not ours.adds_bos
    assert ours.decode(ours.prompt_ids("time")) == "<b>time"


def test_a_tokenizer_json_in_the_same_folder_wins_unless_the_model_is_named(tmp_path):
    source = save(tmp_path / "hf", sentencepiece_model("llama"))
    reference("gpt-2").save(str(source.with_name("tokenizer.json")))
    assert convert(source.parent, tmp_path / "of_folder").decode([50]) == reference("gpt-2").decode([50])
    assert convert(source, tmp_path / "of_model").bos_id == 1


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model_type": "unigram", "vocab_size": 380}, "is not BPE"),
        ({"byte_fallback": False, "vocab_size": 300}, "has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises text by 'nmt_nfkc'"),
        ({"treat_whitespace_as_suffix": True}, "puts spaces behind words"),
    ],
)
def test_kinds_of_models_that_cannot_be_converted(script_error, tmp_path, changes, part):
    source = save(tmp_path, train_sentencepiece(**{**SENTENCEPIECE["llama"], **changes}))
    line = script_error(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    assert part in line
    assert "use a tokenizer.json" in line


def test_damaged_models_and_files_that_do_not_fit(script_error, tmp_path):
    model = sentencepiece_model("llama")

    def error(data):
        source = save(tmp_path / "hf", data)
        return script_error(script.main, {}, source=source.parent, output=tmp_path / "out" / "tokenizer.json")

    assert "not a whole SentencePiece model" in error(model[:5000])
    assert "not a whole SentencePiece model" in error(model[:4])
    lone = ModelProto.FromString(model)
    next(piece for piece in lone.pieces if piece.piece == "中").piece = "\u0100"
    assert "'中' is in longer pieces" in error(lone.SerializeToString())
    lone.pieces[300].type = ModelProto.SentencePiece.UNUSED
    assert "unused pieces" in error(lone.SerializeToString())
    config = tmp_path / "hf" / "tokenizer_config.json"
    write(config, {"added_tokens_decoder": {"602": {"content": "<pad>"}}})
    assert "lists token 602 as '<pad>', but tokenizer.model has None" in error(model)
    for malformed in ([1], {"x": {"content": "<pad>"}}, {"1": "<pad>"}, {"1": {"content": 5}}):
        write(config, {"added_tokens_decoder": malformed})
        assert "tokenizer_config.json: " in error(model)
    write(config, {"added_tokens_decoder": {"1": {"content": "<bos>"}}})
    assert "lists token 1 as '<bos>', but tokenizer.model has '<s>'" in error(model)


def test_a_tokenizer_that_differs_from_its_reference_is_refused(both, tmp_path):
    theirs, ours, _ = both
    check_equal(ours.backend, theirs.encode, theirs.decode, tmp_path, SYMBOLS)
    other = SentencePieceProcessor(model_proto=train_sentencepiece(**SENTENCEPIECE["llama"], vocab_size=500))
    with pytest.raises(HexportError, match=r"cannot be converted exactly, .* gets other ids"):
        check_equal(ours.backend, other.encode, other.decode, tmp_path)
    with pytest.raises(HexportError, match=r"cannot be converted exactly, .* decodes to another text"):
        check_equal(ours.backend, theirs.encode, lambda ids: theirs.decode(ids).upper(), tmp_path)
