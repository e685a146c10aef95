"""The layers of the package: each folder imports from those above it in ORDER alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scripts" / "hexport"
BASE = "hexport"  # modules that lie in no folder: errors, progress, manifests, files
ORDER = (
    *(BASE, "targets", "programs", "decoder", "checkpoints", "tokenizers", "quantization", "lowering", "runtime"),
    *(
        "evaluation",
        "config",
        "devices",
        "build",
        "report",
        "fitting",
        "importing",
        "bundles",
        "doctor",
        "verification",
    ),
)


def folder_of(module: str) -> str:
    """Where a module of the package lies: `hexport.decoder.rope` in decoder, `hexport.errors` in none."""
    first = module.split(".")[1] if "." in module else ""
    return first if (PACKAGE / first).is_dir() and first else BASE


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, in functions too. `from . import x` is not written anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "hexport")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "hexport":
                yield from (f"hexport.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("hexport."):
                yield node.module


def edges() -> dict[tuple[str, str], list[str]]:
    """(folder, folder that it imports from) -> the files that do."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = folder_of(".".join(("hexport", *path.relative_to(PACKAGE).with_suffix("").parts)))
        for module in imported(path):
            found.setdefault((own, folder_of(module)), []).append(str(path.relative_to(PACKAGE)))
    return found


def test_every_folder_has_a_place():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(ORDER) - {BASE}


def test_no_import_runs_upwards():
    upwards = {
        f"{own} -> {other}": files
        for (own, other), files in edges().items()
        if own != other and ORDER.index(other) > ORDER.index(own)
    }
    assert upwards == {}


@pytest.mark.parametrize(("folder", "known"), [("link", {"link"}), ("phones", {"link", "phones"})])
def test_the_link_knows_no_phones_and_phones_know_no_runners(folder, known):
    files = list((PACKAGE / "devices" / folder).glob("*.py"))
    modules = [module for path in files for module in imported(path) if module.startswith("hexport.devices.")]
    assert {module.split(".")[2] for module in modules} == known
    assert len(files) > 3


def test_whatever_is_imported_from_a_module_is_there():
    """In functions too, whose imports nothing runs before a user does."""

    def has(module: str, name: str) -> bool:
        file = PACKAGE.parent.joinpath(*module.split("."))
        if (file / name).is_dir() or (file / f"{name}.py").is_file():
            return True
        file = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__init__.py"
        return re.search(rf"^(\S.*\b|    |){name}\b", file.read_text(), re.MULTILINE) is not None

    missing = [
        f"{file.name}: {node.module}.{alias.name}"
        for file in sorted(PACKAGE.parent.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hexport"
        for alias in node.names
        if not has(node.module, alias.name)
    ]
    assert missing == []


@pytest.mark.parametrize("script", sorted(PACKAGE.parent.glob("*.py")), ids=lambda path: path.name)
def test_scripts_import_nothing_heavy_before_their_options_are_read(script):
    """`--help` and a wrong option answer at once."""
    heavy = {"torch", "executorch", "transformers", "lm_eval", "numpy", "onnxruntime_qnn"}
    tree = ast.parse(script.read_text())
    first = {
        name.split(".")[0]
        for node in tree.body
        for name in ([node.module] if isinstance(node, ast.ImportFrom) and node.module else [])
        + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    }
    assert not first & heavy
