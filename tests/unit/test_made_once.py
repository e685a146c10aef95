"""Jobs that make the same, by the real script that converts a checkpoint: at one time, one after the other, and with a
cache whose entries are damaged."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from forks import FORKS
from safetensors.numpy import save_file

from hexport.artifact_cache import FOLDER, GB, LIMIT_GB, Cache, Work
from hexport.code_digest import SCRIPTS
from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import manifest_path, write_manifest, write_text

FILES = ("model.safetensors", "config.json", "model.safetensors.manifest.json", "config.json.manifest.json")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


@pytest.fixture
def published(tmp_path) -> Path:
    """A random llama in a Hugging Face folder."""
    folder = tmp_path / "published"
    folder.mkdir()
    square, layer = np.full((8, 8), 0.5, np.float32), "model.layers.0"
    tensors = {f"{layer}.self_attn.{name}_proj.weight": square for name in "qkvo"}
    tensors |= {f"{layer}.mlp.{name}_proj.weight": square for name in ("gate", "up", "down")}
    norms = (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm")
    tensors |= {f"{name}.weight": np.ones(8, np.float32) for name in norms}
    save_file(tensors | {"model.embed_tokens.weight": np.ones((64, 8), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def start(published: Path, output: Path, cache: Path | None = None, params: str | None = None) -> subprocess.Popen:
    variables = {FOLDER: str(cache), LIMIT_GB: "1"} if cache else {}
    options = ("--settings", "-", "--source", published, "--output", output / "model.safetensors")
    job = subprocess.Popen(
        [FORKS.python, SCRIPTS / "convert_checkpoint.py", *options],
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    job.stdin.write(json.dumps({"sha256": None, "params": params}))
    job.stdin.close()
    return job


def said(job: subprocess.Popen) -> str:
    """What a job said, once it has ended well."""
    text = job.stderr.read()
    assert job.wait() == 0, text
    return text


def contents(folder: Path) -> dict[str, bytes]:
    assert sorted(os.listdir(folder)) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_jobs_of_different_folders_do_the_work_once(published, tmp_path):
    folders = [tmp_path / name for name in "abcd"]
    jobs = [start(published, folder, tmp_path / "cache") for folder in folders]
    texts = [said(job) for job in jobs]
    assert sorted("taken from the cache" in text for text in texts) == [False, True, True, True]
    assert len({json.dumps({k: v.hex() for k, v in contents(folder).items()}) for folder in folders}) == 1


def test_a_job_that_waited_takes_what_the_other_one_has_made_in_its_place(published, tmp_path):
    said(start(published, tmp_path / "first"))
    place = tmp_path / "second"
    place.mkdir()
    lock = place / ".model.safetensors.lock"
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        job = start(published, place)
        line = job.stderr.readline()
        assert "waiting for it" in line
        for name in FILES:
            shutil.copy2(tmp_path / "first" / name, place / name)
        lock.unlink()
    assert "another job has made it meanwhile" in said(job)
    assert contents(place) == contents(tmp_path / "first")


def test_a_job_that_waited_for_one_that_failed_does_the_work(published, tmp_path):
    lock = tmp_path / ".model.safetensors.lock"
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        job = start(published, tmp_path)
        job.stderr.readline()
    assert "write:" in said(job)
    assert not lock.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_entry_is_made_anew(published, tmp_path, name):
    cache = tmp_path / "cache"
    said(start(published, tmp_path / "a", cache))
    (file,) = cache.glob(f"??/*/{name}")
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert "write:" in said(start(published, tmp_path / "b", cache))
    checkpoints = [(tmp_path / each / "model.safetensors").read_bytes() for each in "ab"]
    assert checkpoints[0] == checkpoints[1]
    assert "taken from the cache" in said(start(published, tmp_path / "c", cache))


def test_other_settings_are_another_entry(published, tmp_path):
    cache = tmp_path / "cache"
    said(start(published, tmp_path / "a", cache))
    params = tmp_path / "params.json"
    params.write_text("{}")
    other = start(published, tmp_path / "b", cache, params=str(params))
    assert "taken from the cache" not in other.stderr.read()
    other.wait()


def test_links_and_pipes_in_an_entry_are_not_followed(published, tmp_path):
    cache = tmp_path / "cache"
    said(start(published, tmp_path / "a", cache))
    (file,) = cache.glob("??/*/model.safetensors")
    file.unlink()
    file.symlink_to(tmp_path / "a" / "model.safetensors")
    assert "write:" in said(start(published, tmp_path / "b", cache))
    (file,) = cache.glob("??/*/model.safetensors")
    file.unlink()
    os.mkfifo(file)
    assert "write:" in said(start(published, tmp_path / "c", cache))


def test_a_cache_that_cannot_be_written_is_a_note(published, tmp_path):
    cache = tmp_path / "cache"
    (cache / "locks").mkdir(parents=True)
    for first in range(256):
        (cache / f"{first:02x}").touch()  # files where folders should be
    assert f"note: {cache}: " in said(start(published, tmp_path / "a", cache))
    contents(tmp_path / "a")


def test_what_inputs_do_not_tell_is_not_cached(tmp_path, monkeypatch):
    """Evaluations: a task of the Hub may hold something else tomorrow."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(LIMIT_GB, "1")
    for number in range(2):
        output = tmp_path / f"{number}/fp.json"
        with made_once([output], SCRIPTS / "evaluate_fp.py", {}, {}, Progress(), cached=False) as there:
            assert not there
            write_text(output, "{}")
            write_manifest(output, script=SCRIPTS / "evaluate_fp.py", inputs={}, params={}, stages={})
    assert not (tmp_path / "cache").exists()


def entry(cache: Cache, folder: Path, number: int) -> tuple[Work, Path]:
    """Add an entry of about 1,000 bytes."""
    artifact = folder / "artifact.bin"
    artifact.write_bytes(bytes([number]) * 1000)
    write_manifest(artifact, script=SCRIPTS / "fetch.py", inputs={}, params={"number": number}, stages={})
    manifest = json.loads(manifest_path(artifact).read_text())
    work = Work("fetch.py", manifest["code"], {}, {"number": number}, {})
    cache.put(work, [artifact])
    return work, artifact


def test_the_least_recently_used_entries_go(tmp_path):
    (tmp_path / "made").mkdir()
    _, artifact = entry(Cache(tmp_path / "another", limit_gb=1), tmp_path / "made", 9)
    size = artifact.stat().st_size + manifest_path(artifact).stat().st_size
    cache = Cache(tmp_path / "cache", limit_gb=3.5 * size / GB)
    works = []
    for number in range(3):
        work, artifact = entry(cache, tmp_path / "made", number)
        works.append(work)
        time.sleep(0.02)
    assert cache.take(works[0], [artifact])
    assert artifact.read_bytes() == bytes(1000)
    works += [entry(cache, tmp_path / "made", number)[0] for number in (3, 4)]
    assert [cache.take(work, [artifact]) for work in works] == [True, False, False, True, True]


def test_what_is_larger_than_the_limit_is_not_added(tmp_path):
    cache = Cache(tmp_path / "cache", limit_gb=1200 / GB)
    work, artifact = entry(cache, tmp_path, 1)
    assert not cache.take(work, [artifact])
