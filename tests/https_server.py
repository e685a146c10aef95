"""An HTTPS server on this machine, with a certificate that a client trusts who is told to."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

AUTHORITY = trustme.CA()


def certificate_file(folder: Path) -> str:
    """Path of a file for SSL_CERT_FILE."""
    path = folder / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


@contextlib.contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """`https://localhost:port` of a running server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda request, client: None  # a client that leaves, or does not trust the certificate
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FileHandler(BaseHTTPRequestHandler):
    """Answers with content, from the byte that a Range header names, and refuses."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def answer(self, content: bytes, *, cut: int | None = None, ranges: bool = True) -> None:
        """Send the content; break the connection after `cut` bytes of the whole."""
        header = self.headers.get("Range")
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header and ranges else 0
        if start and start >= len(content):
            return self.refuse(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.send(content[start:cut])
        self.close_connection = cut is not None

    def send(self, content: bytes) -> None:
        self.wfile.write(content)

    def refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
