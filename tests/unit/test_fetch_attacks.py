"""What a hostile server answers, in place of the Hub or of a web page: one line, and no file outside the folder."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
from https_server import FileHandler, certificate_file, serve
from huggingface_hub import constants, set_client_factory

import fetch
from hexport.checkpoints import web

CONTENT = b"weights"
COMMIT, DIGEST, BLOB = "c" * 40, sha256(CONTENT).hexdigest(), "b" * 40
FILE = {"rfilename": "config.json", "size": 7, "blobId": BLOB, "lfs": {"sha256": DIGEST, "size": 7}}


def listing(*files: dict, sha: object = COMMIT) -> bytes:
    return json.dumps({"sha": sha, "siblings": [{**FILE, **file} for file in files]}).encode()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """`server(path, answer)`: what a local server says at a path, a redirection where the answer is a text."""
    answers: dict[str, bytes | str] = {}

    class Handler(FileHandler):
        def do_GET(self):
            answer = answers.get(self.path.partition("?")[0], CONTENT)
            if isinstance(answer, str):
                return self.refuse(302, Location=answer)
            if answer is HUGE:
                self.send_response(200)
                self.send_header("Content-Length", str(10**18))
                self.end_headers()
                self.close_connection = True
                return None
            return self.answer(answer)

    with serve(Handler) as address:
        monkeypatch.setenv("SSL_CERT_FILE", certificate_file(tmp_path))
        monkeypatch.setattr(constants, "ENDPOINT", address)
        set_client_factory(web._client)
        yield answers, address
    set_client_factory(web._client)


HUGE = b"a body that is announced as 10^18 bytes long"
INFO = "/api/models/org/tiny/revision/main"
ANSWERS = {
    "nothing": b"",
    "not JSON": b"<html>",
    "cut": b'{"sha": "',
    "not UTF-8": b'{"sha": "\xff"}',
    "a list": b"[]",
    "a text": b'"siblings"',
    "null": b"null",
    "empty": b"{}",
    "deep": b"[" * 100_000,
    "deep and whole": b'{"siblings": ' + b"[" * 80 + b"]" * 80 + b"}",
    "NaN": b'{"siblings": NaN}',
    "no commit": listing({}, sha=None),
    "commit as a path": listing({}, sha="../../" + "c" * 34),
    "siblings null": b'{"sha": "%s", "siblings": null}' % COMMIT.encode(),
    "siblings a number": b'{"sha": "%s", "siblings": 7}' % COMMIT.encode(),
    "siblings of texts": b'{"sha": "%s", "siblings": ["config.json"]}' % COMMIT.encode(),
    "siblings of lists": b'{"sha": "%s", "siblings": [[]]}' % COMMIT.encode(),
    "name a number": listing({"rfilename": 7}),
    "no name": listing({"rfilename": None}),
    "size a text": listing({"lfs": None, "size": "7"}),
    "negative size": listing({"lfs": {"sha256": DIGEST, "size": -1}}),
    "no digest": listing({"lfs": None, "blobId": None}),
    "lfs a list": listing({"lfs": []}),
    "lfs a text": listing({"lfs": "sha256"}),
    "digest a path": listing({"lfs": {"sha256": "../../../../evil" + "a" * 48, "size": 7}}),
    "huge": b'{"siblings": [' + b"0," * (9 << 20),
    "announced as huge": HUGE,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none_of_the_hubs_is_one_line(server, script_error, tmp_path, answer):
    server[0][INFO] = ANSWERS[answer]
    line = script_error(fetch.main, {"uri": "hf://org/tiny", "weights": True}, output=tmp_path / "d/download.json")
    assert line.startswith("error: hf://org/tiny: ") or "an answer of more than" in line
    assert len(line) < 500


@pytest.mark.parametrize(
    "name",
    [
        "consolidated.x/../../../../PWN.pth",
        "consolidated.x/../../PWN.pth",
        "model-/../../PWN-of-.safetensors",
        "../PWN.safetensors",
    ],
)
def test_no_file_of_a_repository_lands_outside_its_folder(server, script_error, tmp_path, name):
    """The first of these was written outside, with exit 0: a * of fnmatch takes slashes."""
    answers, _ = server
    others = ({"rfilename": "params.json"}, {"rfilename": "model.safetensors.index.json"}, {"rfilename": "config.json"})
    answers[INFO] = listing({"rfilename": name}, *others)
    output = tmp_path / "a" / "d" / "download.json"
    assert "has no config.json with" in script_error(
        fetch.main, {"uri": "hf://org/tiny", "weights": True}, output=output
    )
    assert not [path for path in tmp_path.rglob("*") if "PWN" in path.name]


@pytest.mark.parametrize("name", ["download.json", "download.json.manifest.json", "a\\b.bin"])
def test_a_file_that_would_take_the_listings_place_is_refused(server, script_error, tmp_path, name):
    server[0][INFO] = listing({"rfilename": name})
    settings = {"uri": f"hf://org/tiny/{name}", "weights": True}
    assert "which is not written" in script_error(fetch.main, settings, output=tmp_path / "d/download.json")


def test_more_bytes_than_the_listing_says_are_not_kept(server, script_error, tmp_path):
    server[0][INFO] = listing({"lfs": {"sha256": DIGEST, "size": 3}}, {"rfilename": "model.safetensors"})
    line = script_error(fetch.main, {"uri": "hf://org/tiny", "weights": True}, output=tmp_path / "d/download.json")
    assert "the server sends more than the 3 bytes that the file has" in line


def test_an_answer_that_only_trickles_is_one_line(server, script_error, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "MAX_SECONDS", -1)
    server[0][INFO] = listing({})
    line = script_error(fetch.main, {"uri": "hf://org/tiny", "weights": True}, output=tmp_path / "d/download.json")
    assert "an answer that takes more than" in line


def web_error(script_error, tmp_path, uri: str) -> str:
    return script_error(fetch.main, {"uri": uri, "sha256": DIGEST}, output=tmp_path / "d/model.gguf")


@pytest.mark.parametrize("hops", [1, 3])
def test_no_step_of_a_redirection_goes_over_http(server, script_error, tmp_path, hops):
    answers, address = server
    for hop in range(hops - 1):
        answers[f"/{hop}"] = f"{address}/{hop + 1}"
    answers[f"/{hops - 1}"] = "http://127.0.0.1:9/model.gguf"
    assert "the server leads to http://" in web_error(script_error, tmp_path, f"{address}/0")


def test_a_hub_does_not_lead_to_http_either(server, script_error, tmp_path):
    answers, _ = server
    answers[INFO] = listing({}, {"rfilename": "model.safetensors"})
    answers[f"/org/tiny/resolve/{COMMIT}/config.json"] = "http://127.0.0.1:9/config.json"
    line = script_error(fetch.main, {"uri": "hf://org/tiny", "weights": True}, output=tmp_path / "d/download.json")
    assert "the server leads to http://" in line


def test_a_file_that_no_disk_holds_is_refused_before_it_comes(server, script_error, tmp_path):
    answers, address = server
    answers["/model.gguf"] = HUGE
    assert "1000000000.0 GB to come" in web_error(script_error, tmp_path, f"{address}/model.gguf")


@pytest.mark.parametrize("end", ["/a\x00b", "/a\nb", "/a\x1b[31mb", "/\ud800"])
def test_an_address_with_what_no_address_holds_is_one_line(server, script_error, tmp_path, end):
    _, address = server
    assert "which no URI has" in web_error(script_error, tmp_path, address + end)


@pytest.mark.parametrize(
    "uri", ["https://[::1/model.gguf", "https://a..b/model.gguf", "https://localhost:x/model.gguf"]
)
def test_what_is_no_host_is_one_line(script_error, tmp_path, uri):
    web_error(script_error, tmp_path, uri)


def partial(tmp_path) -> Path:
    (tmp_path / "d").mkdir()
    return tmp_path / f"d/.model.gguf.{DIGEST[:12]}.partial"


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_download_never_writes_through_a_link(server, tmp_path, script_error, link):
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    link(precious, path := partial(tmp_path))
    with pytest.raises(AssertionError):  # the folder is not empty: the link is left to the user
        web_error(script_error, tmp_path, f"{server[1]}/model.gguf")
    assert precious.read_bytes() == b"mine"
    assert path.exists()
    assert not (tmp_path / "d/model.gguf").exists()


def test_a_download_never_waits_for_a_pipe(server, tmp_path):
    from hexport.checkpoints.download import download

    os.mkfifo(partial(tmp_path))
    with pytest.raises(OSError, match=r"\.partial"):
        download(f"{server[1]}/model.gguf", tmp_path / "d/model.gguf", DIGEST, {})
