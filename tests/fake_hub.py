"""Local servers that answer what huggingface_hub asks of the Hub: a model's info, and its files by commit."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import https_server
from huggingface_hub.utils.sha import git_hash


@dataclass
class Repository:
    """`commits` maps a commit to its files; `branches` maps a name to a commit."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False


@dataclass
class Hub:
    """`cut` maps a file to the byte at which its connection breaks; then the server is `down`."""

    repositories: dict[str, Repository]
    token: str | None = None  # the only one that is valid
    accepted: bool = False  # the token's account has accepted the licences
    cut: dict[str, int] = field(default_factory=dict)
    down: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # file, its Range
    tokens_elsewhere: set[str] = field(default_factory=set)  # that the server of large files was sent
    endpoint: str = ""
    elsewhere: str = ""

    def asked(self, file: str) -> list[str | None]:
        """The Range of each request for the file."""
        return [range_ for name, range_ in self.requests if name == file]


def commit_of(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@contextlib.contextmanager
def serve(hub: Hub, kind: type["Handler"] | None = None) -> Iterator[Hub]:
    handler = type("OfHub", (kind or Handler,), {"hub": hub})
    with https_server.serve(handler) as hub.endpoint, https_server.serve(handler) as hub.elsewhere:
        yield hub


class Handler(https_server.FileHandler):
    hub: Hub

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != self.hub.token:
            self._refuse(401, "Invalid credentials in Authorization header")
        elif self.path.startswith("/api/models/"):
            self._info(*self.path.removeprefix("/api/models/").partition("?")[0].split("/revision/"))
        elif "/resolve/" in self.path:
            name, _, rest = self.path[1:].partition("/resolve/")
            self._file(name, *rest.split("/", 1), token=token)
        elif "/large/" in self.path:
            self.hub.tokens_elsewhere |= {token} - {""}
            name, _, rest = self.path[1:].partition("/large/")
            self._content(name, *rest.split("/", 1))
        else:
            self._refuse(404, "Not Found")

    def _info(self, name: str, revision: str = "main") -> None:
        if (repository := self.hub.repositories.get(name)) is None:
            return self._refuse(401, "Invalid username or password.")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [_sibling(*file) for file in repository.commits[commit].items()]
        body = {"id": name, "sha": commit, "siblings": siblings, "gated": repository.gated}
        self.answer(json.dumps(body).encode())

    def _file(self, name: str, commit: str, file: str, token: str) -> None:
        repository = self.hub.repositories[name]
        if repository.gated and not (token and self.hub.accepted):
            return self._refuse(403 if token else 401, f"Access to model {name} is restricted.", "GatedRepo")
        if _is_large(file):
            return self.refuse(302, Location=f"{self.hub.elsewhere}/{name}/large/{commit}/{file}")
        self._content(name, commit, file)

    def _content(self, name: str, commit: str, file: str) -> None:
        self.hub.requests.append((file, self.headers.get("Range")))
        if self.hub.down:
            return self._refuse(503, "down")
        cut = self.hub.cut.get(file)
        self.hub.down = cut is not None
        self.answer(self.hub.repositories[name].commits[commit][file], cut=cut)

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        self.refuse(status, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))


def _sibling(name: str, content: bytes) -> dict:
    sibling = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
    if _is_large(name):
        sibling["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return sibling


def _is_large(name: str) -> bool:
    """Whether the file is under Git LFS: known by its SHA-256, and served from another host."""
    return name.endswith((".safetensors", ".bin", ".pth", ".gguf", ".onnx"))
