"""Two builds of the same config, in two checkouts and in processes that share nothing, give the same files. A third
takes them from the cache of the second."""

import json
import shutil
import subprocess
from pathlib import Path

from workflow_tree import SNAKEMAKE, Tree, environment

PROGRAM = "artifacts/b/16a8w/ctx32/SM8650/kv_llama_qnn.pte"


def test_two_checkouts_build_the_same_files(built: Tree, tmp_path):
    elsewhere = copy_of(built, tmp_path / "another" / "checkout")
    elsewhere.joinpath("config.yaml").write_text(f"cache: {tmp_path}/cache\n{(built.path / 'config.yaml').read_text()}")
    subprocess.run([*SNAKEMAKE, PROGRAM], cwd=elsewhere, env=environment(), check=True)  # other hashes than in forks
    made = [file for file in (elsewhere / "artifacts").rglob("*") if file.is_file() and file.suffix != ".log"]
    files = sorted(file.relative_to(elsewhere) for file in made)
    assert {Path(PROGRAM).name, "model.safetensors", "quant_attrs.json", "tokens.json"} <= {file.name for file in files}
    different = [str(file) for file in files if _content(elsewhere / file) != _content(built.path / file)]
    assert different == []

    third = copy_of(Tree(elsewhere), tmp_path / "third")
    Tree(third).snakemake(PROGRAM)
    copied = [file for file in files if file.parts[2] not in ("tokenizer", "calibration")]
    assert [file.name for file in copied if file.name.endswith(".manifest.json")]
    assert [str(file) for file in copied if (third / file).read_bytes() != (elsewhere / file).read_bytes()] == []


def copy_of(tree: Tree, place: Path) -> Path:
    """The same workflow and config in another place, without anything built."""
    shutil.copytree(tree.path, place, ignore=shutil.ignore_patterns("artifacts", ".snakemake", "__pycache__"))
    return place


def _content(file: Path) -> object:
    """The bytes; of a manifest, all but the times, the memory and the threads, which are fewer in forks."""
    if not file.name.endswith(".manifest.json"):
        return file.read_bytes()
    manifest = json.loads(file.read_text())
    assert manifest.pop("stages")
    manifest.pop("machine", None)
    return manifest
