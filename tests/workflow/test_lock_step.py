"""Two builds of the same config, in two checkouts and in processes that share nothing, give the same files."""

import json
import shutil
import subprocess
from pathlib import Path

from workflow_tree import SNAKEMAKE, Tree, environment

PROGRAM = "artifacts/b/16a8w/ctx32/SM8650/kv_llama_qnn.pte"


def test_two_checkouts_build_the_same_files(built: Tree, tmp_path):
    elsewhere = tmp_path / "another" / "checkout"
    shutil.copytree(built.path, elsewhere, ignore=shutil.ignore_patterns("artifacts", ".snakemake", "__pycache__"))
    subprocess.run([*SNAKEMAKE, PROGRAM], cwd=elsewhere, env=environment(), check=True)  # other hashes than in forks
    made = [file for file in (elsewhere / "artifacts").rglob("*") if file.is_file() and file.suffix != ".log"]
    files = sorted(file.relative_to(elsewhere) for file in made)
    assert {Path(PROGRAM).name, "model.safetensors", "quant_attrs.json", "tokens.json"} <= {file.name for file in files}
    different = [str(file) for file in files if _content(elsewhere / file) != _content(built.path / file)]
    assert different == []


def _content(file: Path) -> object:
    """The bytes; of a manifest, all but the times, the memory and the threads, which are fewer in forks."""
    if not file.name.endswith(".manifest.json"):
        return file.read_bytes()
    manifest = json.loads(file.read_text())
    assert manifest.pop("stages")
    manifest.pop("machine", None)
    return manifest
