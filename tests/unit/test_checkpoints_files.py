"""Which files a checkpoint has, told without reading weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import convert_checkpoint
from hexport.checkpoints.files import checkpoint_files
from hexport.errors import HexportError

INDEX = {"weight_map": {"a": "part-1", "b": "part-2"}}


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(json.dumps(INDEX) if name.endswith("index.json") else "{}")
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("config.json model.safetensors README.md", "config.json model.safetensors"),
        ("config.json a.safetensors b.safetensors", "config.json a.safetensors b.safetensors"),
        (
            "config.json model.safetensors.index.json part-1 part-2 part-3",
            "config.json part-1 part-2 model.safetensors.index.json",
        ),
        ("config.json pytorch_model.bin training_args.bin stories.bin", "config.json pytorch_model.bin"),
        (
            "config.json pytorch_model.bin.index.json part-1 part-2",
            "config.json part-1 part-2 pytorch_model.bin.index.json",
        ),
        ("config.json model.safetensors pytorch_model.bin", "config.json model.safetensors"),
        ("config.json model.safetensors pytorch_model.bin.index.json", "config.json model.safetensors"),
        ("consolidated.00.pth consolidated.01.pth params.json", "params.json consolidated.00.pth consolidated.01.pth"),
        (
            "config.json model.safetensors consolidated.00.pth params.json",
            "config.json model.safetensors",
        ),
        ("config.json consolidated.00.pth params.json", "params.json consolidated.00.pth"),
    ],
)
def test_a_folder_is_its_config_weights_and_index(tmp_path, files, expected):
    folder = make(tmp_path / "model", *files.split())
    assert checkpoint_files(folder, None) == [folder / name for name in expected.split()]


@pytest.mark.parametrize("name", ["a.gguf", "stories.pt", "stories.bin"])
def test_a_file_that_says_its_own_config_stands_alone(tmp_path, name):
    folder = make(tmp_path / "model", name, "params.json")
    assert checkpoint_files(folder / name, None) == [folder / name]


def test_weights_of_meta_go_with_params_beside_them_or_named(tmp_path):
    folder, mine = make(tmp_path / "model", "consolidated.00.pth", "params.json"), tmp_path / "mine.json"
    mine.write_text("{}")
    weights = folder / "consolidated.00.pth"
    assert checkpoint_files(weights, None) == [folder / "params.json", weights]
    assert checkpoint_files(weights, mine) == checkpoint_files(folder, mine) == [mine, weights]
    (folder / "params.json").unlink()
    assert checkpoint_files(folder, mine) == [mine, weights]
    make(folder, "config.json", "model.safetensors")
    assert checkpoint_files(folder, mine) == [mine, weights]
    assert checkpoint_files(make(folder, "a.pt") / "a.pt", mine) == [mine, folder / "a.pt"]
    assert checkpoint_files(make(folder, "a.bin") / "a.bin", mine) == [mine, folder / "a.bin"]


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ("", "nothing", "no such file or folder; expected a Hugging Face folder"),
        ("README.md", "", "no checkpoint in this folder; expected a Hugging Face folder"),
        ("stories.bin", "", "no checkpoint in this folder"),
        ("model.safetensors", "", "config.json is missing beside model.safetensors"),
        ("pytorch_model.bin", "", "config.json is missing beside pytorch_model.bin"),
        ("config.json", "", "no \\*.safetensors or pytorch_model\\*.bin beside config.json"),
        ("config.json model.safetensors.index.json part-1", "", "part-2 is not in the folder"),
        ("consolidated.00.pth", "", "params.json is missing; download it"),
        ("consolidated.00.pth", "consolidated.00.pth", "params.json is missing; download it"),
        ("consolidated.01.pth params.json", "", "consolidated.00.pth is missing beside consolidated.01.pth"),
        ("consolidated.00.pth consolidated.02.pth params.json", "", "consolidated.01.pth is missing"),
        ("config.json pytorch_model.bin", "pytorch_model.bin", "name its folder"),
        ("config.json model.safetensors", "model.safetensors", "name its folder"),
        ("config.json model.safetensors", "config.json", "name its folder"),
        ("notes.txt", "notes.txt", "notes.txt: expected a Hugging Face folder"),
    ],
)
def test_what_is_no_checkpoint_or_lacks_a_file_is_refused(tmp_path, files, source, message):
    folder = make(tmp_path / "model", *files.split())
    with pytest.raises(HexportError, match=message):
        checkpoint_files(folder / source, None)


def test_an_index_outside_the_folder_is_refused(tmp_path):
    folder = make(tmp_path / "model", "config.json", "model.safetensors.index.json")
    make(tmp_path, "part-1")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../part-1"}}))
    with pytest.raises(HexportError, match="part-1 is not in the folder"):
        checkpoint_files(folder, None)


@pytest.mark.parametrize("weight_map", [None, ["a"], {"a": 1}])
def test_an_index_without_a_map_is_refused(tmp_path, weight_map):
    folder = make(tmp_path / "model", "config.json")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(HexportError, match="no weight_map from tensors to files"):
        checkpoint_files(folder, None)


def test_params_that_are_missing_or_of_no_use_are_refused(tmp_path):
    folder = make(tmp_path / "model", "config.json", "model.safetensors", "a.gguf")
    with pytest.raises(HexportError, match=r"none\.json: no such file"):
        checkpoint_files(folder, tmp_path / "none.json")
    params = make(tmp_path, "params.json") / "params.json"
    for path in (folder, folder / "a.gguf"):
        with pytest.raises(HexportError, match="remove params, which is for Meta"):
            checkpoint_files(path, params)


def test_nothing_heavy_is_imported():
    heavy = "import sys, hexport.checkpoints.files; print({'numpy', 'torch', 'gguf'} & sys.modules.keys())"
    scripts = Path(convert_checkpoint.__file__).parent
    done = subprocess.run([sys.executable, "-c", heavy], cwd=scripts, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
