import errno
import json
import os
import subprocess

import pytest

from hexport.code_digest import SCRIPTS, code_digest
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.provenance import LISTING, atomic_path, damage, manifest_path, verified, write_json, write_manifest


def test_a_write_is_whole_or_absent(tmp_path):
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text() == '{\n "a": "ü",\n "b": 1\n}\n'
    with pytest.raises(OSError, match="No space"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
    assert json.loads(path.read_text())["b"] == 1
    assert os.listdir(path.parent) == ["a.json"]


def test_a_write_to_a_full_disk_names_its_file(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space") as raised, atomic_path(path), open("/dev/full", "wb") as full:
        full.write(b"half")
    assert raised.value.filename == str(path)


def test_a_write_removes_what_a_killed_one_left(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    _, pid, _ = temporary.name.rsplit(".", 2)
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays listed: nobody takes its exit code
    dead = tmp_path / temporary.name.replace(pid, "999999999")
    unwaited = tmp_path / temporary.name.replace(pid, str(ended.pid))
    alive = tmp_path / temporary.name.replace(pid, "1")
    elsewhere = tmp_path / ".a.elsewhere.999999999.part"
    for left in (dead, unwaited, alive, elsewhere):
        left.write_text("half")
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole again")
    assert (tmp_path / "a").read_text() == "whole again"
    assert set(tmp_path.iterdir()) == {tmp_path / "a", alive, elsewhere}
    ended.wait()


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"scale": float("nan")})
    assert os.listdir(tmp_path) == []


def test_manifest_records_what_made_the_artifact(tmp_path):
    artifact, source = tmp_path / "a.bin", tmp_path / "source"
    artifact.write_bytes(b"artifact")
    source.write_bytes(b"source")
    stages = {"convert": {"seconds": 0.1, "peak_rss_mb": 10}}
    write_manifest(
        artifact,
        script=SCRIPTS / "write_tokenizer_bin.py",
        inputs=verified({"source": source}),
        params={"x": 1},
        stages=stages,
        versions={"qnn": "2"},
        soc="SM8650",
    )
    manifest = json.loads((tmp_path / "a.bin.manifest.json").read_text())
    assert manifest["sha256"] == "c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c"
    assert manifest["inputs"]["source"] == "41cf6794ba4200b839c53531555f0f3998df4cbb01a4d5cb0b94e3ca5e23947d"
    assert manifest["artifact"] == "a.bin"
    assert manifest["params"] == {"x": 1}
    assert manifest["stages"] == stages
    assert manifest["soc"] == "SM8650"
    assert manifest["code"] == code_digest("write_tokenizer_bin.py")
    assert manifest["versions"].keys() == {"hexport", "snakemake", "pytorch_tokenizers", "qnn"}


@pytest.fixture
def artifact(tmp_path):
    """A file of 100 kB with its manifest."""
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(100_000))
    write_manifest(path, script=SCRIPTS / "fetch.py", inputs={}, params={}, stages={})
    return path


def test_an_artifact_is_what_its_manifest_says(artifact):
    assert damage(artifact) is None
    assert verified({"a": artifact}) == {"a": json.loads(manifest_path(artifact).read_text())["sha256"]}


def test_a_flipped_bit_is_refused(artifact):
    with open(artifact, "r+b") as file:
        file.seek(50_000)
        file.write(b"\1")
    with pytest.raises(HexportError, match=r"a\.bin: its bytes are not those of its manifest") as raised:
        verified({"a": artifact})
    assert "\n" not in str(raised.value)


def test_a_flipped_bit_is_refused_whatever_the_times_say(artifact):
    """Times can be set; the time of the last change of a file's state cannot."""
    before = artifact.stat()
    assert damage(artifact) is None
    with open(artifact, "r+b") as file:
        file.write(b"\1")
    os.utime(artifact, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert damage(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", '{"sha256": 1}', "[" * 100_000, "\udcff"])
def test_a_damaged_manifest_counts_as_a_difference(artifact, text):
    manifest_path(artifact).write_text(text, errors="surrogateescape")
    assert damage(artifact) == f"{artifact}: its manifest is damaged"


def test_what_has_no_manifest_is_taken_as_it_is(artifact):
    manifest_path(artifact).unlink()
    assert damage(artifact) is None
    artifact.unlink()
    with pytest.raises(HexportError, match="no such file"):
        verified({"a": artifact})


def test_a_write_follows_no_link(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        name = temporary.name
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (tmp_path / name).symlink_to(outside)
    with atomic_path(tmp_path / "a") as temporary:
        assert not temporary.is_symlink()
        temporary.write_text("b")
    assert outside.read_text() == "untouched"
    assert (tmp_path / "a").read_text() == "b"


def test_a_write_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """What a power cut leaves: the content is flushed before the rename, and the folder after it."""
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("b")
    assert events == [str(temporary), "rename", str(tmp_path)]


@pytest.fixture
def download(tmp_path):
    """What `fetch` leaves of a repository of two files."""
    listing, weights, model = (tmp_path / name for name in (LISTING, "model.safetensors", "original/tokenizer.model"))
    model.parent.mkdir()
    weights.write_bytes(bytes(100_000))
    model.write_bytes(b"tokenizer")
    files = {str(file.relative_to(tmp_path)): {"sha256": sha256(file)} for file in (weights, model)}
    write_json(listing, {"uri": "hf://a/b@main", "commit": "0", "files": files})
    write_manifest(listing, script=SCRIPTS / "fetch.py", inputs={}, params={}, stages={})
    return listing


@pytest.mark.parametrize("name", ["model.safetensors", "original/tokenizer.model"])
def test_what_lies_beside_a_listing_is_what_the_listing_says(download, name):
    file = download.parent / name
    assert damage(download) is damage(file) is None
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    assert damage(download) == damage(file) == f"{file}: its bytes are not those of download.json"
    file.unlink()
    assert damage(download) == f"{file}: it is gone"


def test_a_folder_of_the_users_with_a_file_of_that_name(download, tmp_path):
    manifest_path(download).unlink()
    download.write_text("[")
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert verified({"m": tmp_path / "model.safetensors"})
