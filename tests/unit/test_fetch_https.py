"""https:// from a local server with a certificate of its own."""

import fcntl
import gzip
import json
import os
import random
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import trustme
from forks import FORKS
from https_server import FileHandler, certificate_file, serve

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch.py"
MIB = 1 << 20
CONTENT = random.Random(0).randbytes(24 * MIB)
SHA256 = sha256(CONTENT).hexdigest()


class Server:
    """What the server does, and what it was asked."""

    def __init__(self):
        self.content, self.cut, self.ranges, self.status = CONTENT, None, True, None
        self.asked = []


@pytest.fixture
def server():
    state = Server()

    class Handler(FileHandler):
        def do_GET(self):
            state.asked.append(self.headers.get("Range"))
            if self.path == "/moved":
                return self.refuse(302, Location="/model.gguf")
            if self.path == "/packed":
                body = gzip.compress(CONTENT) if "gzip" in self.headers.get("Accept-Encoding", "") else CONTENT
                return self.answer(body)
            if state.status:
                return self.refuse(state.status)
            if state.cut:
                state.status = 503
            self.answer(state.content, cut=state.cut, ranges=state.ranges)

    with serve(Handler) as state.address:
        yield state


@pytest.fixture
def fetch(server, tmp_path):
    """`fetch(path, sha256)`: runs the script as the rule does; the output is d/model.gguf."""

    def run(path: str, expected: str | None = None, **variables: str) -> subprocess.CompletedProcess:
        settings = json.dumps({"uri": f"{server.address}{path}", "sha256": expected})
        command = [FORKS.python, str(SCRIPT), "--settings", "-", "--output", str(tmp_path / "d/model.gguf")]
        environment = {**os.environ, "SSL_CERT_FILE": certificate_file(tmp_path), **variables}
        return subprocess.run(command, env=environment, input=settings, capture_output=True, text=True)

    return run


def error(done: subprocess.CompletedProcess) -> str:
    """The one line of an error."""
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    return done.stderr.splitlines()[1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/model.gguf", SHA256),
        ("/model.gguf", SHA256.upper()),
        (f"/model.gguf#sha256={SHA256}", None),
        ("/moved", SHA256),
        ("/packed", SHA256),
        ("/model.gguf?download=true", SHA256),
    ],
)
def test_the_file_is_written_whole_with_its_manifest(fetch, tmp_path, path, expected):
    assert fetch(path, expected).returncode == 0
    assert (tmp_path / "d/model.gguf").read_bytes() == CONTENT
    assert json.loads((tmp_path / "d/model.gguf.manifest.json").read_text())["sha256"] == SHA256
    assert {file.name for file in (tmp_path / "d").iterdir()} == {"model.gguf", "model.gguf.manifest.json"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on_from_where_it_was_if_the_server_can(server, fetch, tmp_path, ranges):
    server.cut = 15 * MIB
    assert error(fetch("/model.gguf", SHA256)).endswith(
        "localhost answers 503 Service Unavailable; check the address, or run again later to continue"
    )
    assert not (tmp_path / "d/model.gguf").exists()
    server.cut, server.status, server.ranges, server.asked = None, None, ranges, []
    assert fetch("/model.gguf", SHA256).returncode == 0
    assert server.asked == [f"bytes={15 * MIB}-"]
    assert (tmp_path / "d/model.gguf").read_bytes() == CONTENT
    assert {file.name for file in (tmp_path / "d").iterdir()} == {"model.gguf", "model.gguf.manifest.json"}


def test_what_was_received_whole_is_not_fetched_again(server, fetch, tmp_path):
    assert fetch("/model.gguf", SHA256).returncode == 0
    (tmp_path / "d/model.gguf").rename(tmp_path / f"d/.model.gguf.{SHA256[:12]}.partial")
    server.asked = []
    assert fetch("/model.gguf", SHA256).returncode == 0
    assert fetch("/model.gguf", SHA256).returncode == 0
    assert server.asked == []
    assert (tmp_path / "d/model.gguf").read_bytes() == CONTENT


def test_a_start_that_is_too_long_is_given_up(fetch, tmp_path):
    partial = tmp_path / f"d/.model.gguf.{SHA256[:12]}.partial"
    partial.parent.mkdir()
    partial.write_bytes(CONTENT + b"more")
    assert "416" in error(fetch("/model.gguf", SHA256))
    assert fetch("/model.gguf", SHA256).returncode == 0
    assert (tmp_path / "d/model.gguf").read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(server, fetch, tmp_path):
    server.content = CONTENT[:-1] + b"\0"
    found = sha256(server.content).hexdigest()
    assert error(fetch("/model.gguf", SHA256)).endswith(f"sha256 differs: expected {SHA256}, found {found}")
    assert list((tmp_path / "d").iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_one_line(server, fetch, tmp_path, status):
    server.status = status
    assert f": localhost answers {status} " in error(fetch("/model.gguf", SHA256))
    assert list((tmp_path / "d").iterdir()) == []


def test_a_certificate_that_is_not_trusted_is_one_line(fetch, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    line = error(fetch("/model.gguf", SHA256, SSL_CERT_FILE=str(other)))
    assert "no connection: " in line
    assert "certificate" in line.lower()
    assert list((tmp_path / "d").iterdir()) == []


def test_a_second_process_is_turned_away(server, fetch, tmp_path):
    (tmp_path / "d").mkdir()
    with open(tmp_path / f"d/.model.gguf.{SHA256[:12]}.partial", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process is downloading it" in error(fetch("/model.gguf", SHA256))
    assert server.asked == []
