import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hexport import file_hashes, stat_cache
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.stat_cache import StatCache, user_cache

LARGE = 200_000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder; `forget` makes this process as new."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _forget(monkeypatch)
    return tmp_path / "cache" / "hexport"


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(LARGE))
    return path


@pytest.fixture
def read(monkeypatch):
    """The files that were read for their hash."""
    found, digest = [], file_hashes._digest
    monkeypatch.setattr(file_hashes, "_digest", lambda file: (found.append(Path(file.name)), digest(file))[1])
    return found


def _forget(monkeypatch):
    monkeypatch.setattr(file_hashes, "_cache", StatCache("sha256", least_bytes=65_536))


def right(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_next_process_reads_no_large_file_again(cache, large, read, monkeypatch):
    assert sha256(large) == right(large)
    _forget(monkeypatch)
    assert sha256(large) == right(large)
    assert read == [large]


def test_a_small_file_is_remembered_by_this_process_only(cache, tmp_path, read, monkeypatch):
    small = tmp_path / "small"
    small.write_bytes(b"small")
    time.sleep(0.03)
    assert sha256(small) == sha256(small) == right(small)
    assert read == [small]
    assert not (cache / "sha256").exists()


@pytest.mark.parametrize("way", ["write", "replace", "append", "write and set the times"])
def test_a_change_is_noticed(cache, large, way):
    for _ in range(20):
        before = large.stat()
        assert sha256(large) == right(large)
        if way == "replace":
            other = large.with_name("other")
            other.write_bytes(os.urandom(LARGE))
            other.replace(large)
        elif way == "append":
            with open(large, "ab") as file:
                file.write(b"more")
        else:
            large.write_bytes(os.urandom(LARGE))
            if way != "write":
                os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert sha256(large) == right(large)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(cache, large, monkeypatch):
    digest = file_hashes._digest

    def slow(file):
        found = digest(file)
        time.sleep(0.03)
        large.write_bytes(bytes(LARGE))
        return found

    monkeypatch.setattr(file_hashes, "_digest", slow)
    sha256(large)
    monkeypatch.setattr(file_hashes, "_digest", digest)
    assert sha256(large) == right(large)


def test_damaged_lines_count_as_absent(cache, large, read, monkeypatch):
    sha256(large)
    whole = (cache / "sha256").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole.replace(right(large).encode()[:8], b"00000000"), b"\0" * 99, b"\n"):
        (cache / "sha256").write_bytes(damaged)
        read.clear()
        _forget(monkeypatch)
        assert sha256(large) == right(large)
        assert read == [large]
        _forget(monkeypatch)
        assert sha256(large) == right(large)  # the line that was added behind the damage is whole
        assert read == [large]


def test_processes_add_at_the_same_time(cache, tmp_path, read, monkeypatch):
    files = [tmp_path / str(i) for i in range(40)]
    for file in files:
        file.write_bytes(os.urandom(LARGE))
    program = "import sys; from hexport.file_hashes import sha256; [sha256(name) for name in sys.argv[1:]]"
    command = [sys.executable, "-c", program, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(Path(file_hashes.__file__).parents[1])}
    for process in [subprocess.Popen(command, env=environment) for _ in range(3)]:
        assert process.wait(60) == 0
    assert [sha256(file) for file in files] == [right(file) for file in files]
    assert read == []


def test_the_cache_does_not_grow_without_end(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(stat_cache, "MAX_BYTES", 5000)
    for i in range(60):
        path = tmp_path / f"{i}"
        path.write_bytes(os.urandom(LARGE))
        assert sha256(path) == right(path)
    assert (cache / "sha256").stat().st_size < 6000
    assert {file.name for file in cache.iterdir()} == {"sha256"}


def test_the_folder_is_the_users_alone(cache, large, tmp_path):
    assert user_cache() == cache
    assert cache.stat().st_mode & 0o777 == 0o700
    sha256(large)
    assert (cache / "sha256").stat().st_mode & 0o777 == 0o600


def test_no_link_is_followed(tmp_path, large, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "hexport").symlink_to(elsewhere)
    assert user_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    victim = elsewhere / "victim"
    victim.write_text("untouched")
    (user_cache() / "sha256").symlink_to(victim)
    _forget(monkeypatch)
    assert sha256(large) == right(large)
    assert victim.read_text() == "untouched"


def test_without_a_folder_files_are_read_again(tmp_path, large, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _forget(monkeypatch)
    assert sha256(large) == right(large)


def test_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HexportError, match="fifo: not a regular file"):
        sha256(tmp_path / "fifo")
