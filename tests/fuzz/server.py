"""A web server whose answers cases write: it stands for the Hub, and for any host of a download.

It runs in a process of its own, so the process that forks the cases has no threads.
"""

import base64
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import https_server

COMMIT = "0123456789" * 4
_state: dict[str, str] = {}


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Serve what `answer` writes into `folder`; HF_ENDPOINT and SSL_CERT_FILE name the server."""
    folder.mkdir()
    read, write = os.pipe()
    if not (child := os.fork()):
        os.close(read)
        _serve(folder, write)
    os.close(write)
    address = os.read(read, 100).decode()
    os.environ |= {"HF_ENDPOINT": address, "SSL_CERT_FILE": https_server.certificate_file(folder)}
    os.environ |= {"HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    _state.update(address=address, folder=str(folder))
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


def address() -> str:
    return _state["address"]


def answer(path: str, body: bytes, status: int = 200, **headers: str) -> None:
    """What the server says of a path from now on. A client may resolve its dots, so the path's last name counts.

    A header of the value `` is left out.
    """
    known = {"content_length": str(len(body))}
    document = {"status": status, "headers": known | headers, "body": base64.b64encode(body).decode()}
    _file(Path(_state["folder"]), path).write_text(json.dumps(document))


def _file(folder: Path, path: str) -> Path:
    name = path if path.startswith("/api/") else unquote(path).rpartition("/")[2]
    return folder / hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()


def _serve(folder: Path, write: int) -> None:
    class Handler(https_server.FileHandler):
        def do_GET(self) -> None:
            file = _file(folder, self.path.partition("?")[0])
            if not file.is_file():
                return self.refuse(404)
            document = json.loads(file.read_text())
            self.send_response(document["status"])
            for name, value in document["headers"].items():
                if value:
                    self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(base64.b64decode(document["body"]))
            self.close_connection = True

    with https_server.serve(Handler) as address:
        os.write(write, address.encode())
        signal.pause()
