"""What made an artifact: digests of code and files, manifests, and writes that are whole or absent."""

import ast
import contextlib
import copy
import functools
import glob
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hexport import __version__

SCRIPTS = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that replaces it when the block ends well, and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*.part"):  # by a process of this host that was killed
        if not Path("/proc", left.name.removeprefix(prefix).removesuffix(".part")).exists():
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write sorted, indented JSON. Raises ValueError on NaN or infinity, which no artifact may hold."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def manifest_path(artifact: Path) -> Path:
    return artifact.with_name(artifact.name + ".manifest.json")


def write_manifest(
    *artifacts: Path,
    inputs: dict[str, Path],
    params: dict,
    stages: dict[str, dict],
    versions: dict[str, str] | None = None,
    **facts: object,
) -> None:
    """Write `<artifact>.manifest.json`: what made the artifact, from what, with which versions, time and memory.

    Several artifacts are those of one job, whose inputs are read once.
    `stages` maps a stage's name to {"seconds", "peak_rss_mb"} (see `progress.Progress.stages`); `facts` are further
    top-level keys of the stage at hand.
    """
    manifest = {
        "inputs": {name: sha256(path) for name, path in inputs.items()},
        "params": params,
        "versions": {"hexport": __version__, "snakemake": metadata.version("snakemake"), **(versions or {})},
        "stages": stages,
        **facts,
    }
    for artifact in artifacts:
        write_json(manifest_path(artifact), {"artifact": artifact.name, "sha256": sha256(artifact), **manifest})


@functools.cache
def code_digest(script: str) -> str:
    """Digest of `scripts/<script>` and of every hexport module it reaches by imports.

    Comments, docstrings, formatting and the version number do not count: the digest is taken over the syntax trees.
    """
    digest = hashlib.sha256()
    for path in sorted(import_closure(SCRIPTS / script)):
        digest.update(f"{path.relative_to(SCRIPTS)}\n{_code(path)}\n".encode())
    return digest.hexdigest()[:16]


def import_closure(path: Path) -> set[Path]:
    """The file itself and all files of the package that it imports, at any depth and from any scope."""
    closure: set[Path] = set()
    pending = [path]
    while pending:
        path = pending.pop()
        if path not in closure:
            closure.add(path)
            pending += _imports(path)
    return closure


@functools.cache
def _imports(path: Path) -> frozenset[Path]:
    modules: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, path)
            modules |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(file for module in modules if module.split(".")[0] == "hexport" for file in _files(module))


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """Full name of the module that `from … import` names in the file `path`."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(SCRIPTS).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _files(module: str) -> Iterator[Path]:
    """Files that `import module` runs: the module itself and the __init__ of every package above it."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        base = SCRIPTS.joinpath(*parts[:depth])
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                yield file


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _code(path: Path) -> str:
    """The file's syntax tree as text, without what does not change what the code does."""
    tree = copy.deepcopy(_parse(path))
    tree.body = [node for node in tree.body if not _is_version(node)]
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _is_version(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
