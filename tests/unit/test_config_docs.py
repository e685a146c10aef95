"""docs/reference.md is what the schemas say, and docs/configuration.md tells of every key what an edit rebuilds."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hexport.config.reference import PAGE, reference
from hexport.config.schema import schema
from hexport.config.settings import built_in_models

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text()
CONFIG, DEVICES = schema("config"), schema("devices")
MODEL = CONFIG["$defs"]["model"]["properties"]
DEVICE = DEVICES["properties"]["devices"]["additionalProperties"]["properties"]


def described(rule: dict, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key, however deep, with its description."""
    for key, value in rule.get("properties", {}).items():
        if "$ref" not in value or "description" in value:
            yield f"{path}{key}", value.get("description", "")
        yield from described(value, f"{path}{key}.")
    for inner in (rule.get("additionalProperties"), rule.get("items")):
        if isinstance(inner, dict):
            yield from described(inner, f"{path}*.")


ALL_KEYS = [*described(CONFIG), *described(DEVICES)]
ALL_KEYS += [pair for name, rule in CONFIG["$defs"].items() for pair in described(rule, f"{name}.")]
ALL_KEYS += [(name, rule.get("description", "")) for name, rule in CONFIG["$defs"].items() if "enum" in rule]


def sections() -> dict[str, dict[str, list[str]]]:
    """Heading -> key -> what it takes, its default and its meaning."""
    found = {}
    for text in reference().split("\n## ")[1:]:
        heading, *lines = text.splitlines()
        rows = [line.strip("|").split("|") for line in lines if line.startswith("| `")]
        assert all(len(row) == 4 for row in rows), heading
        found[heading.strip("`")] = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    return found


def test_the_page_is_what_the_generator_makes_now():
    assert (DOCS / PAGE).read_text() == reference(), "run `make docs`"


def test_every_key_has_a_section_and_a_row():
    found = sections()
    assert list(found["config.yaml"]) == list(CONFIG["properties"])
    assert list(found["models.<name>"]) == list(MODEL)
    assert list(found["devices.<name>"]) == list(DEVICE)
    assert {"models.<name>.calibration", "recipes.<name>.overrides[]", "devices.<name>.adb_server"} <= found.keys()


@pytest.mark.parametrize(
    ("section", "key", "takes", "default"),
    [
        ("config.yaml", "models", "[keys with values](#modelsname)", "required"),
        ("models.<name>", "ngram", "whole number (2 to 1024)", "`5`"),
        ("models.<name>", "max_seq_len", "whole number (2 to 1048576) or list of whole numbers", "`1024`"),
        ("models.<name>", "modes", "list of `kv`, `hybrid` or `lookahead`", "`[kv]`"),
        ("models.<name>", "system_prompt", "text", '`""`'),
        ("recipes.<name>", "widen", "whole number (0 to 1024, a multiple of 32)", ""),
        ("recipes.<name>.overrides[]", "layers", "text", '`"*"`'),
        ("devices.<name>", "timeout", "number (more than 0, up to 604800)", "`1800`"),
        ("devices.<name>", "soc", "text", "required"),
    ],
)
def test_rows_say_bounds_and_defaults(section, key, takes, default):
    assert sections()[section][key][:2] == [takes, default]


def test_every_key_is_described_in_sentences():
    unlike = re.compile(r"(?![A-Z`]|hexport )|.*[^.]$|(\S+ ){0,3}\S+$", re.DOTALL)
    assert [(key, text) for key, text in ALL_KEYS if unlike.match(text)] == []


def test_what_an_edit_of_each_key_rebuilds():
    (table,) = re.findall(r"^\| an edit of \| rebuilds \|\n(.*?)\n\n", CONFIGURATION, re.MULTILINE | re.DOTALL)
    first = " ".join(line.split("|")[1] for line in table.splitlines())
    known = set(re.findall(r"`(\w+)`", first))
    assert {*CONFIG["properties"], *MODEL, *DEVICE} <= known


def test_built_in_models():
    assert all(f"`{name}`" in CONFIGURATION for name in built_in_models())
