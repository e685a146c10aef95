"""Tokenizers from GGUF metadata encode and decode as the tokenizers that the metadata was made from."""

import json

import pytest
from gguf import GGUFWriter, TokenType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import PIPELINES, SPECIAL, UNMERGED, USER_DEFINED, reference
from transformers import AutoTokenizer

import tokenizer as script
from hexport.tokenizers import load_tokenizer

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


def write_gguf(path, backend, pre, padding=0, **metadata):
    """Write a vocabulary as llama.cpp's converter does; `metadata` is added below `tokenizer.`."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=vocabulary.get) + [f"[PAD{i}]" for i in range(padding)]
    types = [TokenType.NORMAL] * len(vocabulary) + [TokenType.UNUSED] * padding
    for token in SPECIAL:
        types[vocabulary[token]] = TokenType.CONTROL
    types[vocabulary[USER_DEFINED]] = TokenType.USER_DEFINED
    writer = GGUFWriter(path, "llama")
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
    add = {int: writer.add_uint32, bool: writer.add_bool, str: writer.add_string, list: writer.add_array}
    for key, value in keys.items():
        if value is not None:
            add[type(value)](f"tokenizer.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=list(PIPELINES))
def converted(request, tmp_path_factory):
    """(reference tokenizer, our Tokenizer, transformers' tokenizer of our folder) of one kind of GGUF vocabulary."""
    from click.testing import CliRunner

    folder = tmp_path_factory.mktemp("tokenizer")
    backend = reference(request.param)
    source = write_gguf(folder / "model.gguf", backend, request.param, padding=5)
    options = ["--settings", "{}", "--source", source, "--output", folder / "out" / "tokenizer.json"]
    result = CliRunner().invoke(script.main, list(map(str, options)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return backend, load_tokenizer(folder / "out"), AutoTokenizer.from_pretrained(folder / "out")


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
    assert ours.stop_ids == {0, 2}  # <|endoftext|> by its name, <|im_end|>
    assert ours.adds_bos is (backend.encode("a").ids != theirs.encode("a"))


def test_end_of_turn_ids_of_gguf_metadata_stop_too(run_script, tmp_path):
    backend = reference("smollm")
    backend_id = backend.token_to_id("Ġt")
    source = write_gguf(tmp_path / "model.gguf", backend, "smollm", ggml__eot_token_id=backend_id)
    run_script(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    assert load_tokenizer(tmp_path / "out").stop_ids == {0, 2, backend_id}


def test_a_bos_that_the_file_asks_for(run_script, tmp_path):
    source = write_gguf(tmp_path / "model.gguf", reference("smollm"), "smollm", ggml__add_bos_token=True)
    run_script(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
    ours = load_tokenizer(tmp_path / "out")
    assert ours.adds_bos
    assert ours.prompt_ids("time") == AutoTokenizer.from_pretrained(tmp_path / "out").encode("time")
    assert ours.prompt_ids("time") == [ours.bos_id, *ours.encode("time")]
    assert ours.backend.encode("time").ids == ours.prompt_ids("time")  # tokenizer.json alone does it too


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        ({"ggml__pre": "deepseek-v9"}, "tokenizer.ggml.pre is 'deepseek-v9'; supported: gpt-2, smollm"),
        ({"ggml__pre": None}, "tokenizer.ggml.pre is None"),
        ({"ggml__model": "llama"}, "tokenizer.ggml.model is 'llama'"),
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
