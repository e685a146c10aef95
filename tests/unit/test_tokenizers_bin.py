"""tokenizer.bin and tokenizer.model: what the runners on a device read."""

import json
import subprocess
import sys

import pytest
from small_tokenizers import SENTENCEPIECE, reference, sentencepiece_model

import copy_tokenizer_model
import write_tokenizer_bin
from hexport.file_hashes import sha256
from hexport.provenance import manifest_path


@pytest.mark.parametrize("kind", list(SENTENCEPIECE))
def test_tokenizer_bin_equals_the_librarys_converter(run_script, tmp_path, kind):
    model, theirs, ours = tmp_path / "tokenizer.model", tmp_path / "theirs.bin", tmp_path / "out" / "tokenizer.bin"
    model.write_bytes(sentencepiece_model(kind))
    convert = [sys.executable, "-m", "pytorch_tokenizers.tools.llama2c.convert", "-t", model, "-o", theirs]
    subprocess.run(convert, check=True, capture_output=True)
    run_script(write_tokenizer_bin.main, {}, source=model, output=ours)
    assert ours.read_bytes() == theirs.read_bytes()
    manifest = json.loads(manifest_path(ours).read_text())
    assert manifest["inputs"] == {"tokenizer.model": sha256(model)}
    assert "pytorch_tokenizers" in manifest["versions"]


def test_the_published_model_is_copied(run_script, tmp_path):
    source, output = tmp_path / "hf", tmp_path / "out" / "tokenizer.model"
    source.mkdir()
    (source / "tokenizer.model").write_bytes(b"IQ== 0\n")
    reference("gpt-2").save(str(source / "tokenizer.json"))
    run_script(copy_tokenizer_model.main, {}, source=source, output=output)
    assert output.read_bytes() == b"IQ== 0\n"
    assert json.loads(manifest_path(output).read_text())["inputs"] == {"tokenizer.model": sha256(output)}


def test_sources_that_have_neither(script_error, tmp_path):
    source = tmp_path / "hf"
    source.mkdir()
    reference("gpt-2").save(str(source / "tokenizer.json"))

    def errors(path):
        output = tmp_path / "out" / "file"
        return [
            script_error(script.main, {}, source=path, output=output)
            for script in (write_tokenizer_bin, copy_tokenizer_model)
        ]

    assert all("no tokenizer.model is published with this tokenizer" in line for line in errors(source))
    assert all("no such file or folder" in line for line in errors(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"IQ== 0\n", "tokenizer.model: not a SentencePiece model; only these have a tokenizer.bin"),
        (sentencepiece_model("llama")[:3000], "not a whole SentencePiece model"),
    ],
)
def test_only_whole_sentencepiece_models_have_a_tokenizer_bin(script_error, tmp_path, content, part):
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert part in script_error(
        write_tokenizer_bin.main, {}, source=tmp_path, output=tmp_path / "out" / "tokenizer.bin"
    )
