"""docs/configuration.md names every key of the schemas, with its type and default."""

import json
import re
from pathlib import Path

import pytest

from hexport.config.devices import Device
from hexport.config.schema import schema
from hexport.config.settings import built_in_models

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
CONFIG, DEVICES = schema("config"), schema("devices")
PLACES = {
    "config.yaml": CONFIG,
    "A model": CONFIG["$defs"]["model"],
    "devices.yaml": DEVICES["properties"]["devices"]["additionalProperties"],
}


def rows(section: str) -> dict[str, list[str]]:
    """Key -> type and default in the section's table."""
    text = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)[1]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "|" in line]
    return {row[0].strip("|` "): row[1:3] for row in cells if row[0].strip("| ").startswith("`")}


def type_of(rule: dict) -> str:
    if "enum" in rule:
        return " or ".join(f"`{value}`" for value in rule["enum"])
    kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    kind = next(kind for kind in kinds if kind != "null")
    least = f", {rule['minimum']} or more" if "minimum" in rule else ""
    least += f", more than {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else ""
    match kind:
        case "array" if "enum" in rule["items"]:
            return "list of " + ", ".join(f"`{value}`" for value in rule["items"]["enum"])
        case "array" if "$defs/prompt" in rule["items"].get("$ref", ""):
            return "list of text, or of lists of text, or a file"
        case "array":
            return "list of text" + (", or `all`" if "string" in kinds else "")
        case _:
            names = {"string": "text", "integer": "whole number", "number": "number", "object": "keys with values"}
            others = ", or a list" if "array" in kinds else ", or `auto`" if kinds == ["integer", "string"] else ""
            return names[kind] + least + others


def default_of(key: str, place: dict) -> set[str]:
    """What the table may say about the default."""
    rule = place["properties"][key]
    if key in ("checkpoint", *place.get("required", [])):
        return {"required"}
    default = rule.get("default", getattr(Device, key, None))
    if default is None:
        return {"none", "required for adb"}
    if isinstance(default, list):
        return {f"`[{', '.join(default)}]`"}
    return {f"`{default}`" if isinstance(default, str) and default else f"`{json.dumps(default)}`"}


@pytest.mark.parametrize("section", PLACES)
def test_keys_types_and_defaults(section):
    place = PLACES[section]
    assert list(rows(section)) == list(place["properties"])
    for key, (kind, default) in rows(section).items():
        assert kind == type_of(place["properties"][key]), key
        assert default in default_of(key, place), key


def test_built_in_models():
    assert all(f"`{name}`" in DOCUMENT for name in built_in_models())
