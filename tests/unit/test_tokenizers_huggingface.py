"""Tokenizers of Hugging Face folders: taken as their tokenizer.json says."""

import json

import pytest
import tokenizers
from small_tokenizers import CORPUS, reference
from transformers import AutoTokenizer

import tokenizer as script
from hexport.tokenizers import load_tokenizer


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder like Phi-4-mini's: its tokenizer_class makes transformers replace the pre-tokenizers."""
    source = tmp_path / "hf"
    source.mkdir()
    reference("llama-bpe").save(str(source / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    write(source / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": True})
    return source


@pytest.fixture
def convert(run_script, tmp_path):
    """`convert(source)`: our Tokenizer of it and transformers' tokenizer of the same folder."""

    def run(source):
        run_script(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")
        return load_tokenizer(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")

    return run


def write(path, value):
    path.write_text(json.dumps(value))


def test_folder_is_taken_as_its_tokenizer_json_says(convert, folder):
    backend = reference("llama-bpe")
    ours, theirs = convert(folder)
    for text in CORPUS:
        ids = backend.encode(text).ids
        assert ours.encode(text) == theirs.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids) == text
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (1, 2, False)


def test_special_tokens_that_only_the_config_names(convert, folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**config, "eos_token": "Ġt"})
    ours, theirs = convert(folder)
    assert ours.encode("the Ġthe Ġt Ġ") == theirs.encode("the Ġthe Ġt Ġ")
    assert ours.eos_id in ours.encode("xĠtx")


def test_a_tokenizer_json_by_itself(convert, folder):
    (folder / "tokenizer_config.json").unlink()
    ours, _ = convert(folder / "tokenizer.json")
    assert (ours.bos_id, ours.eos_id, ours.chat_template) == (None, None, None)
    assert ours.stop_ids == {0, 2}
    assert ours.encode("time", bos=True) == ours.encode("time")


def test_a_post_processor_that_adds_bos(convert, folder):
    backend = reference("llama-bpe")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    ours, theirs = convert(folder)
    assert ours.adds_bos
    assert ours.prompt_ids("time") == theirs.encode("time") == backend.encode("time").ids


def test_truncation_and_padding_of_published_files_are_off(convert, folder):
    backend = reference("llama-bpe")
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    ours, _ = convert(folder)
    assert ours.encode(CORPUS[0]) == reference("llama-bpe").encode(CORPUS[0]).ids
    assert len(ours.encode("a")) == 1


@pytest.mark.parametrize("listed", [5, [5, 2], [5, 10**6]])
def test_eos_lists_of_the_model_stop_generation(convert, folder, listed):
    write(folder / "generation_config.json", {"eos_token_id": listed})
    write(folder / "config.json", {"eos_token_id": 6})
    assert convert(folder)[0].stop_ids == {0, 2, 5, 6}


def test_chat_templates_are_folded_in(convert, folder):
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }}")
    assert convert(folder)[0].render([{"role": "user", "content": "hi"}]) == "file: hi"
    (folder / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**config, "chat_template": templates})
    ours, theirs = convert(folder)
    assert ours.render([]) == theirs.chat_template == "named"


def test_missing_and_malformed_files(script_error, folder, tmp_path):
    def error(source):
        return script_error(script.main, {}, source=source, output=tmp_path / "out" / "tokenizer.json")

    config = folder / "tokenizer_config.json"
    write(config, {"eos_token": "</nowhere>"})
    assert "eos_token '</nowhere>' is not in the vocabulary" in error(folder)
    config.write_text("[]")
    assert "expected a JSON object" in error(folder)
    config.unlink()
    (folder / "tokenizer.json").write_text('{"model": 1}')
    assert "tokenizer.json: the tokenizers library cannot read it" in error(folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json in this folder" in error(folder)
    assert "no such file" in error(tmp_path / "nowhere")
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert "expected a .gguf file" in error(tmp_path / "tokenizer.model")
