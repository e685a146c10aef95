"""Llama 3's tokenizer.model: the tokenizer.json made of it equals the tiktoken library."""

import base64

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import CORPUS, LLAMA3_WORDS, SPECIAL, UNMERGED, USER_DEFINED, convert, reference
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

import extract_tokenizer as script

# Ids after the ranks, as in Llama 3.2's tokenizer.json (128000 ranks).
LLAMA3_SPECIAL = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|reserved_special_token_0|>": 2,
    "<|finetune_right_pad_id|>": 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eom_id|>": 8,
    "<|eot_id|>": 9,
    "<|python_tag|>": 10,
    "<|reserved_special_token_3|>": 11,
    "<|reserved_special_token_247|>": 255,
}
PARTS = [*LLAMA3_SPECIAL, UNMERGED, " ", "    ", "\n", "\r\n", "7", "'LL", "é", "e\u0301", "中", "😀", "the", "\0"]
TEXT = st.text() | st.lists(st.sampled_from(PARTS) | st.text(max_size=3)).map("".join)
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def small_ranks():
    """Token -> rank of a small byte-level BPE vocabulary, without its special tokens."""
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    vocabulary = reference("llama-bpe").get_vocab()
    tokens = [token for token in sorted(vocabulary, key=vocabulary.get) if token not in (*SPECIAL, USER_DEFINED)]
    return {bytes(to_byte[character] for character in token): rank for rank, token in enumerate(tokens)}


def save(folder, ranks):
    folder.mkdir(exist_ok=True)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "tokenizer.model").write_text("".join(lines))
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(tiktoken's encoding, our Tokenizer, transformers' tokenizer of our folder)."""
    folder, ranks = tmp_path_factory.mktemp("tokenizer"), small_ranks()
    special = {token: len(ranks) + i for token, i in LLAMA3_SPECIAL.items()}
    theirs = tiktoken.Encoding("small", pat_str=LLAMA3_WORDS, mergeable_ranks=ranks, special_tokens=special)
    ours = convert(save(folder, ranks), folder / "out")
    return theirs, ours, AutoTokenizer.from_pretrained(folder / "out")


@QUICK
@given(text=TEXT)
def test_ids_and_text_equal_tiktoken(both, text):
    theirs, ours, transformers = both
    ids = theirs.encode(text, allowed_special="all")
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids) == text
    assert transformers.encode(text) == [ours.bos_id, *ids]


@pytest.mark.parametrize(
    "text", ["", " ", " time", "time ", " " * 500, " " * 501 + "x", "\n" * 300, "a" * 300, *CORPUS]
)
def test_written_samples_equal_tiktoken(both, text):
    theirs, ours, _ = both
    assert ours.encode(text) == theirs.encode(text, allowed_special="all")
    assert ours.decode(ours.encode(text)) == text


def test_special_tokens_of_llama_3(both):
    theirs, ours, _ = both
    ranks = len(small_ranks())
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (ranks, ranks + 1, True)
    assert ours.stop_ids == {ranks, ranks + 1, ranks + 8, ranks + 9}
    assert ours.vocab_size == ranks + 256
    assert ours.prompt_ids("time") == [ours.bos_id, *theirs.encode("time")]


def test_instruct_models_name_their_own_eos_and_template(tmp_path):
    source = save(tmp_path / "hf", small_ranks())
    (source.parent / "tokenizer_config.json").write_text('{"eos_token": "<|eot_id|>"}')
    (source.parent / "chat_template.jinja").write_text("{{ bos_token + messages[0].content + eos_token }}")
    ours = convert(source.parent, tmp_path / "out")
    assert ours.eos_id == len(small_ranks()) + 9
    assert ours.prompt_ids("time") == [ours.bos_id, *ours.encode("time"), ours.eos_id]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "must have every byte as a token, but 0x00 is missing"),
        (b"x", "neither a SentencePiece model nor lines of base64 and rank"),
        (b"\x80\x02}q\x00.", "neither a SentencePiece model nor lines of base64 and rank"),
        (b"IQ== zero\n", "neither a SentencePiece model nor lines of base64 and rank"),
        (b"IQ== 1\n", "ranks of a tiktoken file must be 0, 1, 2"),
        (b"IQ== 0\nIQ== 1\n", "ranks of a tiktoken file must be 0, 1, 2"),
        (b"IQ== 0\n", "but 0x00 is missing"),
    ],
)
def test_files_that_are_no_tokenizers(script_error, tmp_path, content, part):
    source = tmp_path / "tokenizer.model"
    source.write_bytes(content)
    line = script_error(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    assert part in line
    assert "tokenizer.model" in line
