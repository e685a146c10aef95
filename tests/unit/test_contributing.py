"""The lists of files in CONTRIBUTING.md, held against what the code says of the things that they are about."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = re.findall(
    r"^\*\*(A[^*]+)\*\*.*?:\n\n(.*?)(?=\n\n)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
)
# By heading, the files of the first column.
LISTED = {
    name: {file for row in table.splitlines()[2:] for file in re.findall(r"`([^`]+)`", row.split("|")[1])}
    for name, table in SECTIONS
}
CODE = [
    *(ROOT / "scripts").rglob("*.py"), *(ROOT / "schemas").glob("*.yaml"), *(ROOT / "rules").glob("*.smk"),
    ROOT / "Snakefile", ROOT / "config.full.yaml", ROOT / "tests/plain_flow.py",
]  # fmt: skip
DATA = {"scripts/hexport/config/models.yaml", "tests/small_models.py"}


def named(files) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in files}


def that_say(word: str) -> set[str]:
    return named(file for file in CODE if re.search(word, file.read_text(), re.IGNORECASE))


def that_ask_for_the_kind() -> set[str]:
    """Files that compare something's `kind` with a kind of device, or say what kinds there are."""

    def asks(file: Path) -> bool:
        constants = {
            side.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "kind"
            for side in node.comparators
            if isinstance(side, ast.Constant)
        }
        return bool(constants & {"emulator", "adb"})

    return named(file for file in CODE if file.suffix == ".py" and asks(file))


def test_every_list_is_there():
    assert [name.split(" ", 1)[1] for name in LISTED] == [
        *("family", "key of recipes"), "algorithm that codes weights", "kind of device", "rule"
    ]  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_every_file_of_a_list_is_there(name):
    assert [file for file in LISTED[name] if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("A family", "smollm3"),
        ("A key of recipes", "masked_softmax"),
        ("An algorithm that codes weights", "gptq"),
        ("A rule", r"\bbundles?\b|_bundle"),
    ],
)
def test_a_list_has_the_files_that_know_the_thing(name, word):
    assert LISTED[name] - DATA == that_say(word)


def test_the_list_of_a_kind_of_device_has_the_files_that_ask_for_it():
    assert LISTED["A kind of device"] - {"schemas/devices.schema.yaml", "scripts/hexport/code_digest.py"} == (
        that_ask_for_the_kind()
    )
