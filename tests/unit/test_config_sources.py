"""Where checkpoints and tokenizers come from, as the rules see it; the built-in models."""

import hashlib
import json
from pathlib import Path

import pytest

from hexport.build import matrix, sources
from hexport.config.checks import check_config
from hexport.config.schema import schema, schema_errors
from hexport.config.settings import Config, built_in_models, parse_config
from hexport.errors import HexportError

SHA256 = "a" * 64
BUILT_IN = [
    "stories110m",
    "llama3_2-1b_instruct",
    "llama3_2-3b_instruct",
    "gemma-2b",
    "gemma3-1b",
    "phi_4_mini",
    "qwen2_5-0_5b",
    "qwen2_5-1_5b",
    "qwen3-0_6b",
    "qwen3-1_7b",
    "smollm2_135m",
    "smollm3-3b",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")


def parse(models: dict) -> Config:
    """A config of these models."""
    config = parse_config({"models": models}, "config.yaml")
    check_config(config, "config.yaml")
    return config


def test_a_repository_is_a_folder_known_by_its_listing():
    uri, other = "hf://org/repo@v1", "hf://org/tokens"
    Path("a.gguf").touch()
    config = parse(
        {
            "whole": {"checkpoint": uri, "prompts": ["a"], "sha256": SHA256},
            "tokens": {"checkpoint": "a.gguf", "tokenizer": other, "prompts": ["a"]},
        }
    )
    listing, tokens = sources.downloads(config)
    assert listing == f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}-repo/download.json"
    path = f"artifacts/downloads/{listing}"
    assert sources.checkpoint_inputs(config, "whole") == sources.tokenizer_inputs(config, "whole") == [path]
    assert sources.checkpoint_source(config, "whole") == sources.tokenizer_source(config, "whole")
    assert sources.checkpoint_source(config, "whole") == str(Path(path).parent)
    assert json.loads(matrix.fetch_settings(config, listing)) == {"uri": uri, "weights": True}
    assert json.loads(matrix.fetch_settings(config, tokens)) == {"uri": other, "weights": False}
    assert json.loads(matrix.checkpoint_settings(config, "whole")) == {"sha256": SHA256, "params": None}


def test_a_file_of_a_repository_lies_beside_the_listing():
    config = parse({"m": {"checkpoint": "hf://org/repo/sub/a.gguf", "prompts": ["a"]}})
    (listing,) = sources.downloads(config)
    assert sources.checkpoint_inputs(config, "m") == [f"artifacts/downloads/{listing}"]
    assert sources.checkpoint_source(config, "m") == str(Path("artifacts/downloads", listing).parent / "sub/a.gguf")


def test_a_web_file_keeps_its_suffix():
    """Readers tell formats by it."""
    Path("params.json").write_text("{}")
    uri, tokenizer = "https://a.org/models/a%20b.pt?download=true", f"https://a.org/t.model#sha256={SHA256}"
    entry = {"checkpoint": uri, "sha256": SHA256, "params": "params.json", "tokenizer": tokenizer, "prompts": ["a"]}
    config = parse({"m": entry})
    weights, tokens = sources.downloads(config)
    assert weights.endswith("-a-b.pt")
    assert tokens.endswith("-t.model")
    assert sources.checkpoint_inputs(config, "m") == [f"artifacts/downloads/{weights}", "params.json"]
    assert sources.checkpoint_source(config, "m") == f"artifacts/downloads/{weights}"
    assert sources.tokenizer_source(config, "m") == f"artifacts/downloads/{tokens}"
    assert json.loads(matrix.fetch_settings(config, weights)) == {"uri": uri, "sha256": SHA256}
    assert json.loads(matrix.fetch_settings(config, tokens)) == {"uri": tokenizer, "sha256": None}
    assert json.loads(matrix.checkpoint_settings(config, "m")) == {"sha256": None, "params": "params.json"}


def test_params_of_a_local_checkpoint():
    Path("consolidated.00.pth").touch()
    Path("mine.json").write_text("{}")
    Path("tokenizer.model").write_bytes(b"aGk= 0\n")
    entry = {"checkpoint": "consolidated.00.pth", "params": "mine.json", "prompts": ["a"]}
    config = parse({"m": entry})
    assert set(sources.checkpoint_inputs(config, "m")) == {"mine.json", "consolidated.00.pth"}
    assert json.loads(matrix.checkpoint_settings(config, "m")) == {"sha256": None, "params": "mine.json"}


@pytest.mark.parametrize(
    ("head", "forms"),
    [
        (None, ["tokenizer.json"]),
        (b"aGk= 0\naG8= 1\n", ["tokenizer.json", "tokenizer.model"]),
        (b"\x0a\x0e\x0a\x05<unk>", ["tokenizer.json", "tokenizer.model", "tokenizer.bin"]),
    ],
)
def test_tokenizers_are_built_in_every_form_that_their_source_has(head, forms):
    Path("a.gguf").touch()
    Path("folder").mkdir()
    Path("folder/tokenizer.json").write_text("{}")
    if head:
        Path("folder/tokenizer.model").write_bytes(head)
    config = parse({"m": {"checkpoint": "a.gguf", "tokenizer": "folder", "prompts": ["a"]}})
    assert matrix.tokenizers(config) == [f"artifacts/m/tokenizer/{form}" for form in forms]


def test_a_missing_tokenizer_model_is_one_line():
    Path("a.gguf").touch()
    config = parse({"m": {"checkpoint": "a.gguf", "prompts": ["a"]}})
    with pytest.raises(HexportError, match=r"^a\.gguf: "):
        sources.tokenizer_model_inputs(config, "m")


def test_the_12_built_in_models():
    assert list(built_in_models()) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_model_needs_only_its_name(name):
    model = parse({name: None}).models[name]
    assert built_in_models()[name].keys() >= {"checkpoint", "recipe", "prompts"}
    assert list(schema_errors({"models": {name: built_in_models()[name]}}, schema("config"))) == []
    assert model.conversations
    (context_len,) = model.context_lens
    assert model.seq_lens[context_len] <= context_len


HYBRID = ("llama3_2-1b_instruct", "gemma-2b", "gemma3-1b", "qwen2_5-0_5b", "qwen3-0_6b", "smollm2_135m")
LONG_BUILDS = ("llama3_2-3b_instruct", "phi_4_mini", "qwen2_5-1_5b", "qwen3-1_7b", "smollm3-3b")


@pytest.mark.parametrize(
    ("name", "mode", "max_seq_len", "prefill_ar_len"),
    [
        ("stories110m", "hybrid", 128, 32),
        *((name, "hybrid", 1024, 128) for name in HYBRID),
        *((name, "kv", 1024, 128) for name in LONG_BUILDS),
    ],
)
def test_what_is_built_of_a_built_in_model(name, mode, max_seq_len, prefill_ar_len):
    """As the project's mission has it."""
    model = parse({name: None}).models[name]
    assert (model.modes, model.prefill_ar_lens) == ([mode], {max_seq_len: prefill_ar_len})


@pytest.mark.parametrize(
    ("name", "shards"), [("llama3_2-3b_instruct", 3), ("gemma-2b", 4), ("phi_4_mini", 8), ("smollm3-3b", 4)]
)
def test_large_built_in_models_are_split(name, shards):
    """As upstream's export scripts split them."""
    assert parse({name: None}).models[name].num_sharding == shards
