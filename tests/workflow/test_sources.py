"""Checkpoints and tokenizers from where they are published: built-in models, hf://, and the files of a tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
from fake_hub import Hub, Repository, commit_of, serve
from https_server import certificate_file
from pytorch_tokenizers.llama2c import Llama2cTokenizer
from safetensors.numpy import load_file
from sentencepiece import SentencePieceTrainer
from workflow_tree import Tree, copy_workflow, write_checkpoint

COMMIT = commit_of("first")
DEVICES = "devices:\n  emulator: {kind: emulator, soc: SM8650}\n"
TOKENIZER_RULES = ("extract_tokenizer", "copy_tokenizer_model", "write_tokenizer_bin")
WORDS = ["the sea", "a small village", "three daughters", "once upon a time", "rain and wind", "an old fisherman"]


@pytest.fixture
def fresh(tmp_path) -> Tree:
    """The workflow without any artifacts."""
    path = tmp_path / "fresh"
    path.mkdir()
    copy_workflow(path)
    (path / "devices.yaml").write_text(DEVICES)
    return Tree(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with a tiny model, which the workflow takes for the real one."""
    write_checkpoint(tmp_path / "tiny")
    files = {file.name: file.read_bytes() for file in (tmp_path / "tiny").iterdir()}
    repository = Repository({COMMIT: {**files, "README.md": b"# tiny"}}, {"main": COMMIT})
    with serve(Hub({"org/tiny": repository})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("SSL_CERT_FILE", certificate_file(tmp_path))
        yield hub


def test_one_line_of_a_built_in_model_is_enough(fresh):
    (fresh.path / "config.yaml").write_text("models: {qwen3-0_6b: , stories110m: }\n")
    jobs = fresh.stale()
    fetched = {job for job in jobs if job.startswith("fetch ")}
    suffixes = ("-Qwen3-0.6B/download.json", "-tinyllamas/download.json", "-tokenizer.model")
    assert sorted(next(suffix for suffix in suffixes if job.endswith(suffix)) for job in fetched) == list(suffixes)
    assert jobs - fetched == {
        job
        for name, length, prefill in (("qwen3-0_6b", 1024, 128), ("stories110m", 128, 32))
        for job in (
            f"convert_checkpoint {name}",
            f"extract_tokenizer {name}",
            f"encode_calibration {name}",
            f"quantize_weights {name}/{name}",
            f"calibrate {name}/{name}",
            *(f"lower_templates {name}/{name}/{length}/V75/{ar_len}" for ar_len in (1, prefill)),
            *(
                f"{job} {name}/{name}/{length}/{target}/hybrid{shard}"
                for target in ("SM8650", "SM8650-emulator")
                for job, shard in (("compile_shard", "/1/1"), ("assemble_program", ""))
            ),
            f"run_program {name}/{name}/{length}/SM8650-emulator/emulator/hybrid",
        )
    }


def test_a_repository_of_the_hub(fresh, hub, tmp_path):
    (fresh.path / "config.yaml").write_text('models: {m: {checkpoint: "hf://org/tiny", prompts: [Once]}}\n')
    targets = ("artifacts/m/checkpoint/model.safetensors", "artifacts/m/tokenizer/tokenizer.json")
    hub.cut = {"model.safetensors": 1000}
    failed = fresh.snakemake(*targets, check=False)
    assert failed.returncode == 1
    assert "localhost answers 503" in failed.stderr
    assert not list((fresh.path / "artifacts").rglob("model.safetensors"))

    hub.cut, hub.down = {}, False
    hub.requests.clear()
    (folder,) = (fresh.path / "artifacts/downloads").iterdir()
    ran = fresh.run(*targets)
    assert ran == {f"fetch {folder.name}/download.json", "convert_checkpoint m", "extract_tokenizer m"}
    assert hub.asked("model.safetensors") == ["bytes=1000-"]
    assert hub.asked("config.json") == hub.asked("README.md") == []
    expected, found = load_file(tmp_path / "tiny/model.safetensors"), load_file(fresh.path / targets[0])
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)
    manifest = json.loads((folder / "download.json.manifest.json").read_text())
    assert manifest["commit"] == COMMIT

    # A branch is looked up once: where it has moved to meanwhile does not matter.
    hub.repositories["org/tiny"].branches["main"] = commit_of("second")
    assert fresh.stale(*targets) == set()
    assert fresh.run(*targets) == set()


def test_the_forms_of_a_tokenizer(fresh, hub, tmp_path):
    """Those of a path are known, and `tokenizers` builds them; those of a download can be named."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    shutil.copy(tmp_path / "tokenizer.model", fresh.path)
    files = hub.repositories["org/tiny"].commits[COMMIT]
    files["tokenizer.model"] = (tmp_path / "tokenizer.model").read_bytes()
    write_checkpoint(fresh.path / "weights")
    (fresh.path / "config.yaml").write_text(
        "models:\n"
        "  here: {checkpoint: weights, tokenizer: tokenizer.model, prompts: [Once]}\n"
        '  there: {checkpoint: weights, tokenizer: "hf://org/tiny", prompts: [Once]}\n'
    )
    named = "artifacts/there/tokenizer/tokenizer.bin"
    fresh.snakemake("tokenizers", named)
    Llama2cTokenizer(str(tmp_path / "tokenizer.model")).export(str(tmp_path / "tokenizer.bin"))
    expected = (tmp_path / "tokenizer.bin").read_bytes()
    for name in ("here", "there"):
        folder = fresh.path / "artifacts" / name / "tokenizer"
        assert (folder / "tokenizer.bin").read_bytes() == expected
        assert (folder / "tokenizer.model").read_bytes() == files["tokenizer.model"]
    assert fresh.stale("tokenizers", named) == set()
    assert "model.safetensors" not in {name for name, _ in hub.requests}

    (fresh.path / "tokenizer.model").write_bytes(files["tokenizer.model"] + b"\x0a\x00")
    assert fresh.stale("tokenizers") == {f"{rule} here" for rule in TOKENIZER_RULES}


def test_a_tokenizer_that_has_no_model_is_one_line(fresh):
    write_checkpoint(fresh.path / "weights")
    (fresh.path / "config.yaml").write_text("models: {m: {checkpoint: weights, prompts: [Once]}}\n")
    done = fresh.snakemake("-n", "artifacts/m/tokenizer/tokenizer.bin", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: weights")
    assert not Path(fresh.path / "artifacts").exists()
