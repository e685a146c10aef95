"""hf:// with the real client of huggingface_hub, against a local server that speaks the Hub's API."""

import json
import os
import random
import subprocess
from hashlib import sha256
from pathlib import Path

import documented
import pytest
from fake_hub import Hub, Repository, commit_of, serve
from forks import FORKS
from https_server import certificate_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch.py"
WEIGHTS = random.Random(0).randbytes(300_000)
MIB = 1 << 20
FIRST, SECOND = commit_of("first"), commit_of("second")
TOKENIZER = {"tokenizer.json": b'{"model": {}}', "tokenizer_config.json": b"{}", "chat_template.jinja": b"{{ a }}"}
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    **TOKENIZER,
}
DUPLICATES = {
    "README.md": b"# model",
    "pytorch_model.bin": WEIGHTS,
    "consolidated.00.pth": WEIGHTS,
    "params.json": b"{}",
    "model.fp16.safetensors": WEIGHTS,
    "onnx/model.onnx": WEIGHTS,
    "model-Q8_0.gguf": WEIGHTS,
}


def repository(files: dict[str, bytes] | None = None, **kind) -> Repository:
    return Repository({FIRST: files or {**FILES, **DUPLICATES}}, {"main": FIRST, "v1": FIRST}, **kind)


@pytest.fixture
def hub():
    with serve(Hub({"org/tiny": repository(), "org/gated": repository(gated=True)})) as hub:
        yield hub


@pytest.fixture
def fetch(hub, tmp_path):
    """`fetch(uri, weights=…, HF_TOKEN=…)`: runs the script as the rule does."""

    def run(uri: str, *, weights: bool = True, **variables: str) -> subprocess.CompletedProcess:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        server = {"HF_ENDPOINT": hub.endpoint, "SSL_CERT_FILE": certificate_file(tmp_path)}
        environment = {**kept, **server, "HF_HOME": str(tmp_path / "home"), **variables}
        settings = json.dumps({"uri": uri, "weights": weights})
        command = [FORKS.python, str(SCRIPT), "--settings", "-", "--output", str(tmp_path / "d/download.json")]
        return subprocess.run(command, env=environment, input=settings, capture_output=True, text=True)

    return run


def error(done: subprocess.CompletedProcess) -> str:
    """The one line of an error."""
    assert done.returncode == 1, done.stderr
    *progress, line = done.stderr.splitlines()
    assert all(said.startswith("fetch") for said in progress), done.stderr
    return line


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("download.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def listing(folder: Path) -> dict:
    return json.loads((folder / "download.json").read_text())


def test_takes_what_is_needed_and_says_what_it_is(fetch, tmp_path):
    assert fetch("hf://org/tiny").returncode == 0
    assert content(tmp_path / "d") == FILES
    documented.check(listing(tmp_path / "d"), "Downloads")
    assert listing(tmp_path / "d") == {
        "uri": "hf://org/tiny",
        "commit": FIRST,
        "files": {name: {"size": len(data), "sha256": sha256(data).hexdigest()} for name, data in FILES.items()},
    }
    manifest = json.loads((tmp_path / "d/download.json.manifest.json").read_text())
    assert (manifest["commit"], manifest["params"]["uri"]) == (FIRST, "hf://org/tiny")


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (["pytorch_model.bin", "consolidated.00.pth", "params.json"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "optimizer.bin"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
        (
            ["consolidated.00.pth", "consolidated.01.pth", "params.json"],
            ["consolidated.00.pth", "consolidated.01.pth", "params.json"],
        ),
    ],
)
def test_one_set_of_weights_is_taken(hub, fetch, tmp_path, there, taken):
    common = {"config.json": b"{}", "tokenizer.model": b"a"}
    hub.repositories["org/tiny"] = repository({**common, **{name: name.encode() for name in there}})
    assert fetch("hf://org/tiny").returncode == 0
    assert content(tmp_path / "d").keys() == {*common, *taken}


def test_a_tokenizer_is_had_without_the_weights_and_these_can_follow(hub, fetch, tmp_path):
    assert fetch("hf://org/tiny", weights=False).returncode == 0
    assert content(tmp_path / "d").keys() == FILES.keys() - {"model.safetensors"}
    assert fetch("hf://org/tiny").returncode == 0
    assert content(tmp_path / "d") == FILES
    assert hub.asked("tokenizer.json") == [None]


def test_one_file_by_its_path(fetch, tmp_path):
    assert fetch("hf://org/tiny@v1/onnx/model.onnx").returncode == 0
    assert content(tmp_path / "d") == {"onnx/model.onnx": WEIGHTS}


def test_a_cut_download_goes_on_from_where_it_was(hub, fetch, tmp_path):
    files = {**FILES, "model.safetensors": random.Random(1).randbytes(24 * MIB)}
    hub.repositories["org/tiny"] = repository(files)
    hub.cut = {"model.safetensors": 15 * MIB}
    assert "503" in error(fetch("hf://org/tiny"))
    assert not (tmp_path / "d/download.json").exists()
    assert not (tmp_path / "d/model.safetensors").exists()
    hub.cut, hub.down = {}, False
    hub.requests.clear()
    assert fetch("hf://org/tiny").returncode == 0
    assert content(tmp_path / "d") == files
    assert hub.asked("model.safetensors") == [f"bytes={15 * MIB}-"]
    assert hub.asked("config.json") == []


def test_a_branch_that_moved_leaves_nothing_of_the_old_commit(hub, fetch, tmp_path):
    tiny = hub.repositories["org/tiny"]
    hub.cut = {"model.safetensors": 1000}
    assert fetch("hf://org/tiny").returncode == 1
    hub.cut, hub.down = {}, False
    shards = {f"model-{i:05}-of-00002.safetensors": bytes([i]) * 1000 for i in (1, 2)}
    index = {"model.safetensors.index.json": b"{}"}
    tiny.commits[SECOND] = {"config.json": b'{"b": 1}', **shards, **index, **TOKENIZER}
    tiny.branches["main"] = SECOND
    assert fetch("hf://org/tiny").returncode == 0
    assert content(tmp_path / "d") == tiny.commits[SECOND]
    assert listing(tmp_path / "d")["commit"] == SECOND
    assert fetch(f"hf://org/tiny@{FIRST}").returncode == 0
    assert content(tmp_path / "d") == FILES


def test_a_tokenizer_of_a_branch_that_moved_has_nothing_of_the_old_commit(hub, fetch, tmp_path):
    tiny = hub.repositories["org/tiny"]
    tiny.commits[FIRST] = {**FILES, "chat_template.json": b"{}"}
    assert fetch("hf://org/tiny", weights=False).returncode == 0
    assert (tmp_path / "d/chat_template.json").is_file()
    tiny.commits[SECOND] = FILES
    tiny.branches["main"] = SECOND
    assert fetch("hf://org/tiny", weights=False).returncode == 0
    assert not (tmp_path / "d/chat_template.json").exists()


def test_a_damaged_file_is_refused_and_not_kept(hub, fetch, tmp_path):
    weights = tmp_path / "d/model.safetensors"
    assert fetch("hf://org/tiny").returncode == 0
    weights.write_bytes(WEIGHTS[:-1] + b"\0")
    assert fetch("hf://org/tiny").returncode == 0
    assert weights.read_bytes() == WEIGHTS
    hub.repositories["org/tiny"].commits[FIRST]["model.safetensors"] = _Lying(WEIGHTS)
    weights.unlink()
    assert "sha256 differs: expected" in error(fetch("hf://org/tiny"))
    assert content(tmp_path / "d").keys() == FILES.keys() - {"model.safetensors"}


class _Lying(bytes):
    """Served from another content than the one that is described."""

    def __getitem__(self, key):
        return bytes(len(self))[key]


def test_a_gated_repository_opens_to_a_token_whose_account_accepted(hub, fetch, tmp_path):
    hub.token = "hf_good"
    refused = (
        f"error: hf://org/gated: org/gated is gated: accept its licence at {hub.endpoint}/org/gated, "
        "and set HF_TOKEN to a token of that account"
    )
    assert error(fetch("hf://org/gated")) == refused
    assert error(fetch("hf://org/gated", HF_TOKEN="hf_good")) == refused
    hub.accepted = True
    assert error(fetch("hf://org/gated")) == refused
    assert error(fetch("hf://org/gated", HF_TOKEN="hf_old")) == (
        "error: hf://org/gated: the Hub refuses the token: set HF_TOKEN to a valid one that may read org/gated, "
        "or unset it"
    )
    assert fetch("hf://org/gated", HF_TOKEN="hf_good").returncode == 0
    assert content(tmp_path / "d") == FILES
    assert hub.tokens_elsewhere == set()


def test_a_cached_login_is_the_token(hub, fetch, tmp_path):
    hub.token, hub.accepted = "hf_good", True
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text("hf_good")
    assert fetch("hf://org/gated").returncode == 0


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("hf://org/missing", ["no repository org/missing at https://localhost:", "if it is private, set HF_TOKEN"]),
        ("hf://org/tiny@v2", ["org/tiny has no revision v2; see https://localhost:", "/org/tiny/commits"]),
        ("hf://org/tiny@v1/onnx/model.onn", ["org/tiny has no onnx/model.onn; did you mean onnx/model.onnx?"]),
        ("hf://org/--tiny", ["org/--tiny is not a name that a repository can have"]),
    ],
)
def test_what_is_not_there_is_one_line(fetch, tmp_path, uri, parts):
    line = error(fetch(uri))
    assert line.startswith(f"error: {uri}: ")
    assert all(part in line for part in parts), line
    assert not (tmp_path / "d").exists() or not any((tmp_path / "d").iterdir())


def test_a_repository_without_a_checkpoint_is_one_line(hub, fetch):
    hub.repositories["org/tiny"] = repository({"README.md": b"a", "model.safetensors": b"a"})
    assert "org/tiny has no config.json with model.safetensors or pytorch_model.bin, " in error(fetch("hf://org/tiny"))
    assert "org/tiny has no tokenizer.json or tokenizer.model" in error(fetch("hf://org/tiny", weights=False))


def test_offline_is_one_line(fetch):
    assert "no connection: " in error(fetch("hf://org/tiny", HF_ENDPOINT="https://localhost:9"))
    assert error(fetch("hf://org/tiny", HF_HUB_OFFLINE="1")) == (
        "error: hf://org/tiny: HF_HUB_OFFLINE is set; unset it to download"
    )
