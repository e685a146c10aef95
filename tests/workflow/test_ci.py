"""The workflow of docs/ci.md: the commands of its steps, in a repository like the one that it describes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflow_tree import REPOSITORY, copy_workflow, environment

PROGRAM = "artifacts/b/16a8w/ctx32/SM8650/kv_llama_qnn.pte"


@pytest.fixture
def steps() -> dict[str, str]:
    """The commands of the steps that run some, by their names."""
    blocks = (REPOSITORY / "docs" / "ci.md").read_text().split("```yaml\n")[1:]
    (workflow,) = (yaml.safe_load(text.split("```")[0]) for text in blocks if text.startswith("# .github"))
    return {step["name"]: step["run"] for step in workflow["jobs"]["export"]["steps"] if "run" in step}


@pytest.fixture
def repository(built, tmp_path) -> Path:
    """A config and a checkpoint; hexport beside them, set up; and in the cache of artifacts all but the program."""
    hexport = tmp_path / "hexport"
    hexport.mkdir()
    copy_workflow(hexport)
    for name in ("Makefile", "pyproject.toml", "demo"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, hexport / name)  # with its time, for make
    (hexport / ".venv").symlink_to(sys.prefix)
    for name in ("checkpoints", "artifacts"):
        shutil.copytree(built.path / name, tmp_path / name)
    for program in (tmp_path / "artifacts").rglob("*.pte"):
        program.unlink()
    document = yaml.safe_load((built.path / "config.yaml").read_text())
    del document["models"]["a"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    for name in ("devices.yaml", "text.txt"):
        shutil.copy(built.path / name, tmp_path)
    return tmp_path


def test_its_steps_export_and_verify(steps, repository):
    assert list(steps) == ["install", "export", "verify"]
    for name, commands in steps.items():
        words = ["bash", "-e", "-c", commands]
        done = subprocess.run(words, cwd=repository, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    card = (repository / "cards" / PROGRAM).parent / "card.md"
    assert (repository / PROGRAM).is_file()
    assert card.read_text().startswith("# kv\\_llama\\_qnn.pte: good")
