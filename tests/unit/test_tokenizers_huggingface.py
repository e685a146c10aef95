"""Tokenizers of Hugging Face folders: taken as their tokenizer.json says."""

import json

import pytest
import tokenizers
from small_tokenizers import CORPUS, convert, reference
from transformers import AutoTokenizer

import extract_tokenizer as script


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
def converted(tmp_path):
    """`converted(source)`: our Tokenizer of it and transformers' tokenizer of the same folder."""
    return lambda source: (convert(source, tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out"))


def write(path, value):
    path.write_text(json.dumps(value))


def test_folder_is_taken_as_its_tokenizer_json_says(converted, folder):
    backend = reference("llama-bpe")
    ours, theirs = converted(folder)
    for text in CORPUS:
        ids = backend.encode(text).ids
        assert ours.encode(text) == theirs.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids) == text
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (1, 2, False)


def test_special_tokens_that_only_the_config_names(converted, folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**config, "eos_token": "Ġt"})
    ours, theirs = converted(folder)
    assert ours.encode("the Ġthe Ġt Ġ") == theirs.encode("the Ġthe Ġt Ġ")
    assert ours.eos_id in ours.encode("xĠtx")


def test_a_tokenizer_json_by_itself(converted, folder):
    (folder / "tokenizer_config.json").unlink()
    ours, _ = converted(folder / "tokenizer.json")
    assert (ours.bos_id, ours.eos_id, ours.chat_template) == (None, None, None)
    assert ours.stop_ids == {0, 2}
    assert ours.encode("time", bos=True) == ours.encode("time")


def test_a_post_processor_that_adds_bos(converted, folder):
    backend = reference("llama-bpe")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    ours, theirs = converted(folder)
    assert ours.adds_bos
    assert ours.prompt_ids("time") == theirs.encode("time") == backend.encode("time").ids


def test_truncation_and_padding_of_published_files_are_off(converted, folder):
    backend = reference("llama-bpe")
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    ours, _ = converted(folder)
    assert ours.encode(CORPUS[0]) == reference("llama-bpe").encode(CORPUS[0]).ids
    assert len(ours.encode("a")) == 1


@pytest.mark.parametrize("listed", [5, [5, 2], [5, 10**6]])
def test_eos_lists_of_the_model_stop_generation(converted, folder, listed):
    write(folder / "generation_config.json", {"eos_token_id": listed})
    write(folder / "config.json", {"eos_token_id": 6})
    assert converted(folder)[0].stop_ids == {0, 1, 2, 5, 6}


def test_chat_templates_are_folded_in(converted, folder):
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }}")
    assert converted(folder)[0].render([{"role": "user", "content": "hi"}]) == "file: hi"
    (folder / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**config, "chat_template": templates})
    ours, theirs = converted(folder)
    assert ours.render([]) == theirs.chat_template == "named"


def test_special_tokens_and_templates_in_files_of_older_folders(converted, folder):
    write(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    write(folder / "special_tokens_map.json", {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"})
    write(folder / "chat_template.json", {"chat_template": "{{ bos_token }}"})
    ours, theirs = converted(folder)
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    assert ours.render([]) == "<|im_start|>"
    assert theirs.chat_template == "{{ bos_token }}"


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<eos>", "<|end|>"])
def test_tokens_that_end_a_turn_stop_generation_under_their_known_names(converted, folder, end):
    backend = reference("llama-bpe")
    backend.add_special_tokens([end])
    backend.save(str(folder / "tokenizer.json"))
    ours, _ = converted(folder)
    assert ours.stop_ids == {0, 1, 2, backend.token_to_id(end)}


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
    assert "no tokenizer; expected a .gguf file, a tokenizer.json" in error(folder)
    assert "no such file" in error(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("chat_template.jinja", b"\xff", "chat_template.jinja: not UTF-8 text"),
        ("chat_template.json", b'{"chat_template": 5}', "chat_template is neither a text nor a list"),
        ("tokenizer_config.json", b'{"chat_template": ["x"]}', "chat_template is neither a text nor a list"),
        ("config.json", b'{"eos_token_id": "</s>"}', "config.json has '</s>', no id"),
        ("generation_config.json", b'{"eos_token_id": [2, -1]}', "config.json has -1, no id"),
        ("generation_config.json", b'{"eos_token_id": [[2]]}', "config.json has [2], no id"),
    ],
)
def test_malformed_files_beside_the_tokenizer(script_error, folder, tmp_path, name, content, part):
    (folder / name).write_bytes(content)
    assert part in script_error(script.main, {}, source=folder, output=tmp_path / "out" / "tokenizer.json")
