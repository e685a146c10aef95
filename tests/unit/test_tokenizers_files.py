"""Which files a tokenizer is made from, by its path."""

import subprocess
import sys

import pytest
from small_tokenizers import reference, sentencepiece_model

from hexport.checkpoints.hub import needed_files
from hexport.checkpoints.uri import HubFiles
from hexport.code_digest import SCRIPTS
from hexport.errors import HexportError
from hexport.tokenizers.files import COMPANIONS, is_sentencepiece, model_file, published_model, tokenizer_files


@pytest.fixture
def folder(tmp_path):
    """`folder(*names)`: a folder with these files, all empty."""

    def build(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return build


def names(files, folder):
    return [str(file.relative_to(folder)) for file in files]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (".", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"]),
        ("tokenizer.json", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"]),
        ("tokenizer.model", ["tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "config.json"]),
        ("consolidated.00.pth", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"]),
        ("model.gguf", ["model.gguf"]),
    ],
)
def test_files_of_a_source(folder, source, expected):
    root = folder(
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "chat_template.jinja",
        "config.json",
        "consolidated.00.pth",
        "model.gguf",
        "model.safetensors",
    )
    assert names(tokenizer_files(root / source), root) == expected


@pytest.mark.parametrize("source", [".", "stories110M.pt", "model.bin", "params.json"])
def test_a_tokenizer_model_beside_a_checkpoint(folder, source):
    root = folder("stories110M.pt", "model.bin", "params.json", "tokenizer.model", "config.json")
    assert names(tokenizer_files(root / source), root) == ["tokenizer.model", "config.json"]
    assert model_file(root / source) == root / "tokenizer.model"


def test_downloads_are_known_by_the_end_of_their_name(folder):
    root = folder("0123-tokenizer.json", "0123-tokenizer.model", "4567-model.safetensors")
    assert names(tokenizer_files(root / "0123-tokenizer.json"), root) == ["0123-tokenizer.json"]
    assert names(tokenizer_files(root / "0123-tokenizer.model"), root) == ["0123-tokenizer.model"]
    with pytest.raises(HexportError, match="no tokenizer; expected"):
        tokenizer_files(root / "4567-model.safetensors")


def test_the_published_model_may_lie_in_original(folder):
    root = folder("tokenizer.json", "original/tokenizer.model", "model.gguf")
    assert published_model(root) == root / "original" / "tokenizer.model"
    assert names(tokenizer_files(root), root) == ["tokenizer.json"]
    assert model_file(root / "model.gguf") is None


def test_sources_without_a_tokenizer(folder):
    root = folder("config.json", "model.safetensors")
    with pytest.raises(HexportError, match="no tokenizer; expected a"):
        tokenizer_files(root)
    with pytest.raises(HexportError, match="no such file or folder"):
        tokenizer_files(root / "nowhere")
    with pytest.raises(HexportError, match="no such file or folder"):
        published_model(root / "nowhere")


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "tokenizer.model", "original/tokenizer.model"])
def test_the_hub_is_asked_for_every_file_that_counts(folder, tokenizer):
    root = folder(tokenizer, *COMPANIONS)
    files = names(tokenizer_files(root), root)
    assert set(needed_files("hf://org/repo", HubFiles("org/repo", "main", None), files, weights=False)) == {*files}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (sentencepiece_model("llama"), True),
        (sentencepiece_model("gemma"), True),
        (b"IQ== 0\nIg== 1\n", False),
        (reference("gpt-2").to_str().encode(), False),
        (b"\n\n\n\n", False),
        (b"", False),
    ],
)
def test_sentencepiece_models_are_known_by_their_content(tmp_path, content, expected):
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert is_sentencepiece(tmp_path / "tokenizer.model") is expected


def test_looking_for_files_imports_no_library():
    """The Snakefile does it before any job starts."""
    program = (
        "import sys, hexport.tokenizers.files; "
        "print({'numpy', 'torch', 'gguf', 'tokenizers', 'jinja2', 'sentencepiece'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
