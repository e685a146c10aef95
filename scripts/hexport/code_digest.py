"""This module takes digests of code: of what a script runs, so that a change of it makes the artifacts of that script
stale.

They are taken of the syntax trees of the script and of all modules of this package that it reaches by imports, and of
the versions of the other packages that these import.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hexport.file_hashes import sha256
from hexport.stat_cache import TextCache

SCRIPTS = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# These say how it goes, or save time. No byte of an artifact depends on them, nor on the packages for that.
NOT_COUNTED = (
    *("errors", "progress", "job_process", "call_stack", "stat_cache", "file_hashes", "code_digest"),
    *("made_once", "artifact_cache"),
)
PACKAGES_NOT_COUNTED = {"click", "rich"}
# Modules that jobs on one kind of device run, which no result of the other kind depends on.
OF_KIND = {
    "hexport/devices/emulator_evaluations.py": "emulator",
    "hexport/devices/emulator_runs.py": "emulator",
    "hexport/devices/phone_evaluations.py": "adb",
    "hexport/devices/phone_runs.py": "adb",
}
# What makes a program and runs it on the emulator. Programs and what is made of them depend on its versions, by their
# settings; other stages do not.
TOOLCHAIN = ("executorch", "torch", "torchao")
CACHE = TextCache("code")
# Packages that are imported by another name than they are installed by.
DISTRIBUTIONS = {"google": "protobuf", "ruamel": "ruamel.yaml", "yaml": "PyYAML"}


@functools.cache
def code_digest(script: str, device_kind: str | None = None) -> str:
    """Return a digest of `scripts/<script>`, of every hexport module it reaches by imports, and of the packages they
    import, as 16 hex digits.

    For a `device_kind`, what only the other kind of device needs is left out, and so is what only that reaches.
    Comments, docstrings, formatting and the version number do not count.
    """
    digest = hashlib.sha256()
    for path in _counted(script, device_kind):
        digest.update(f"{path.relative_to(SCRIPTS)}\n{_facts(path)['code']}\n".encode())
    for package, version in package_versions(script, device_kind).items():
        if package not in TOOLCHAIN:
            digest.update(f"{package} {version}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def package_versions(script: str, device_kind: str | None = None) -> dict[str, str]:
    """Return the versions of the packages that a script and the hexport modules it reaches import, by the names of the
    imports."""
    packages = {package for path in _counted(script, device_kind) for package in _facts(path)["packages"]}
    return {package: _version(package) for package in sorted(packages - PACKAGES_NOT_COUNTED)}


def import_closure(path: Path, left_out: frozenset[Path] = frozenset()) -> set[Path]:
    """Return the file itself and all files of the package that it imports, at any depth and from any scope.

    Nothing is followed into files that are left out.
    """
    closure: set[Path] = set()
    pending = [path]
    while pending:
        path = pending.pop()
        if path not in closure and path not in left_out:
            closure.add(path)
            pending += [file for module in _facts(path)["modules"] for file in _files(module)]
    return closure


def _counted(script: str, device_kind: str | None) -> list[Path]:
    others = {SCRIPTS / file for file, kind in OF_KIND.items() if device_kind and kind != device_kind}
    not_counted = {SCRIPTS / "hexport" / f"{name}.py" for name in NOT_COUNTED}
    return sorted(import_closure(SCRIPTS / script, frozenset(others)) - not_counted)


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def _files(module: str) -> list[Path]:
    """Return the files that `import module` runs: the module itself and the __init__ of every package above it."""
    parts = module.split(".")
    bases = [SCRIPTS.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return [file for base in bases for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()]


@functools.cache
def _facts(path: Path) -> dict:
    """Return `code`, a digest of the file's code; the `modules` of hexport that it imports; and other `packages`.

    They are kept, by the file's bytes and its place, for all processes and checkouts.
    """
    source = path.read_bytes()
    key = f"{_how()} {path.relative_to(SCRIPTS)} {hashlib.sha256(source).hexdigest()}"
    if (facts := CACHE.get(key)) is None:
        CACHE.put(key, facts := _read_facts(source, path))
    return json.loads(facts)


@functools.cache
def _how() -> str:
    """Return a word that stands for how facts are read."""
    how = f"{sha256(Path(__file__))} {sys.version_info.major}.{sys.version_info.minor}"
    return hashlib.sha256(how.encode()).hexdigest()[:16]


def _read_facts(source: bytes, path: Path) -> str:
    tree = ast.parse(source, str(path))
    names = set(_imported(tree, path))
    modules = sorted(name for name in names if name.split(".")[0] == "hexport")
    packages = {name.split(".")[0] for name in names} - {"hexport", *sys.stdlib_module_names}
    code = hashlib.sha256(_code(tree).encode()).hexdigest()
    return json.dumps({"code": code, "modules": modules, "packages": sorted(packages)})


def _imported(tree: ast.Module, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(SCRIPTS).parent.parts)
            module = importlib.util.resolve_name(f"{'.' * node.level}{node.module or ''}", package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _code(tree: ast.Module) -> str:
    """Return the syntax tree as text, without what does not change what the code does."""
    tree.body = [node for node in tree.body if not _is_version(node)]
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _is_version(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
