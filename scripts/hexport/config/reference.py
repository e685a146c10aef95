"""This module makes docs/reference.md from the schemas: the keys of config.yaml and devices.yaml as tables."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields

from hexport.config.devices import Device
from hexport.config.schema import schema

PAGE = "reference.md"
HEAD = """# Keys of config.yaml and devices.yaml

This page has every key, what it takes, its default and its meaning. `make docs` makes it from `schemas/*.yaml`.
[configuration.md](configuration.md) tells how the files are read and what an edit rebuilds, and
[config.full.yaml](../config.full.yaml) shows every key once, in its place.

An empty default means that nothing is set. In headings, `<name>` stands for a name of your own, and `[]` for an entry
of a list.
"""
NAMES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
LINK = re.compile(r"docs/([a-z_]+\.md)((?:#[\w-]+)?)")


def reference() -> str:
    """Return the whole page, in Markdown."""
    config, devices = (_resolved(rules, rules["$defs"]) for rules in map(schema, ("config", "devices")))
    return "\n".join([HEAD, *_sections("config.yaml", "", config), *_sections("devices.yaml", "", devices)])


def _resolved(rule: object, named: dict) -> object:
    """Return the rule with what each $ref in it names."""
    match rule:
        case {"$ref": name, **own}:
            return _resolved(named[name.rpartition("/")[2]] | own, named)
        case dict():
            return {key: _resolved(value, named) for key, value in rule.items()}
        case list():
            return [_resolved(value, named) for value in rule]
    return rule


def _sections(heading: str, path: str, rule: dict, around: dict | None = None) -> Iterator[str]:
    """Yield the lines of a section with the table of an object's keys, then those of the objects in it, depth first.

    `path` says where the object is in its file, `models.<name>.` for one. `around` has the keys of the object that this
    one is in.
    """
    yield from (f"## {heading}", "")
    if path.endswith((">.", "].")) and "description" in rule:
        yield from (_linked(rule["description"]), "")
    yield from ("| key | takes | default | meaning |", "|---|---|---|---|")
    keys = rule["properties"]
    known = [key for key in keys if keys[key] == (around or {}).get(key)]
    for key, value in keys.items():
        if key not in known:
            place, inside = _object_in(f"{path}{key}", value)
            takes = f"[{_takes(value)}](#{_anchor(place)})" if inside else _takes(value)
            yield f"| `{key}` | {takes} | {_default_of(key, rule, path)} | {_linked(value['description'])} |"
    if known:
        yield f"| {', '.join(f'`{key}`' for key in known)} | as in the section before | | |"
    yield ""
    for key, value in keys.items():
        place, inside = _object_in(f"{path}{key}", value)
        if inside:
            yield from _sections(f"`{place}`", f"{place}.", inside, keys)


def _object_in(path: str, rule: dict) -> tuple[str, dict | None]:
    """Return where the object is that a value is, or holds by name or in a list, and its rule, if it has
    keys of ours."""
    if "properties" in rule:
        return path, rule
    if isinstance(named := rule.get("additionalProperties"), dict):
        return f"{path}.<name>", named
    items = rule.get("items", {})
    return f"{path}[]", items if "properties" in items else None


def _takes(rule: dict) -> str:
    """Return what a value may be: `whole number (1 to 1024)`."""
    if "enum" in rule:
        return _choice(f"`{value}`" for value in rule["enum"])
    if alternatives := rule.get("anyOf", rule.get("oneOf")):
        return _choice(map(_takes, alternatives))
    kinds = [rule["type"]] if isinstance(rule["type"], str) else [kind for kind in rule["type"] if kind != "null"]
    if "$comment" in rule and "maxLength" not in rule:  # what a fault says that it expects
        return rule["$comment"] + _bounds(rule)
    return _choice(_kind(kind, rule) for kind in kinds)


def _kind(kind: str, rule: dict) -> str:
    if kind == "object":
        return "keys with values"
    if kind != "array":
        return NAMES[kind] + _bounds(rule)
    items = rule["items"]
    if items.get("type") in ("string", "integer"):
        return f"list of {NAMES[items['type']]}s"
    of = _takes(items)
    return f"list of ({of})" if " or " in of and "enum" not in items else f"list of {of}"


def _bounds(rule: dict) -> str:
    least, most, above = (rule.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
    found = [] if above is None else [f"more than {above}"]
    found += [] if least is None else [f"{least} or more"] if most is None else [f"{least} to {most}"]
    found += [f"up to {most}"] if above is not None and most is not None else []
    found += [f"a multiple of {rule['multipleOf']}"] if "multipleOf" in rule else []
    return f" ({', '.join(found)})" if found else ""


def _default_of(key: str, parent: dict, path: str) -> str:
    """Return a key's default as the table shows it. For an entry of devices.yaml, the class has it."""
    if key in parent.get("required", ()):
        return "required"
    default = parent["properties"][key].get("default")
    if path == "devices.<name>.":
        default = next(field.default for field in fields(Device) if field.name == key)
    if default is None or default is MISSING:
        return ""
    if isinstance(default, list):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`" if re.fullmatch(r"[\w.]+", str(default)) else f"`{json.dumps(default)}`"


def _choice(texts: Iterable[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} or {last}" if first else last


def _linked(text: str) -> str:
    """Return the text with links in place of names of pages."""

    def link(match: re.Match) -> str:
        return f"[below]({match[2]})" if match[1] == PAGE else f"[{match[1]}]({match[1]}{match[2]})"

    return LINK.sub(link, text)


def _anchor(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
