"""This module validates config.yaml and devices.yaml by their JSON schemas, with one line per fault, and tells
defaults."""

import difflib
import functools
import operator
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import jsonschema

from hexport.config.documents import read_yaml
from hexport.errors import HexportError

MAX_FAULTS = 100  # as many as one look at a file lists
MAX_NAME = 100  # characters of a word whose like is looked for
MAX_KNOWN = 50  # names in a fault
MAX_SHOWN = 60  # characters of a key or value in a fault
SCHEMAS = Path(__file__).resolve().parents[3] / "schemas"
TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "keys with values",
    "string": "text",
}


@functools.cache
def schema(name: str) -> dict:
    """Return the schema of `<name>.yaml`."""
    return read_yaml(SCHEMAS / f"{name}.schema.yaml")


def defaults(properties: dict) -> dict:
    """Return the default of each of the properties that have one, by key."""
    return {key: rule["default"] for key, rule in properties.items() if "default" in rule}


def schema_errors(document: object, rule: dict, written: dict | None = None) -> Iterator[str]:
    """Yield one line `where: what is wrong` for each place where the document breaks the schema `rule`.

    `written` is the document as its file has it, where variables in it stand for what may be secret: values are shown
    from there.
    """
    faults = sorted(_VALIDATOR(rule).iter_errors(document), key=lambda error: [str(part) for part in error.path])
    mistyped = {tuple(error.path) for error in faults if error.validator == "type"}
    for error in faults:
        if error.validator == "type" or tuple(error.path) not in mistyped:
            shown = error.instance if written is None else functools.reduce(operator.getitem, error.path, written)
            yield from _explain(error, shown)


def raise_all(source: str, faults: Iterable[str]) -> None:
    """Raise one HexportError with a line for each fault in the file `source`, if there are any, up to MAX_FAULTS."""
    lines = [f"{source}: {fault}" for fault in islice(faults, MAX_FAULTS + 1)]
    if len(lines) > MAX_FAULTS:
        lines[-1] = f"{source}: has more faults than these {MAX_FAULTS}; mend them first"
    if lines:
        raise HexportError(*lines)


def dotted(path: Iterable[str | int]) -> str:
    """Return the parts of a path as one text, such as `models.a.modes[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{cut(part)}" if text else cut(part)
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean x?`, or `; known: x, y` where nothing known resembles the word."""
    known = list(known)[:1000]
    folded = {name.casefold(): name for name in reversed(known)}
    if len(word) <= MAX_NAME and (close := difflib.get_close_matches(word.casefold(), folded, 1)):
        return f"; did you mean {folded[close[0]]}?"
    more = ", …" if len(known) > MAX_KNOWN else ""
    return f"; known: {', '.join(known[:MAX_KNOWN])}{more}"


def cut(text: str) -> str:
    """Return the text, or its beginning where it is too long for a line."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}…"


def _unique_items(
    _validator: jsonschema.protocols.Validator, unique: bool, items: object, _schema: dict
) -> Iterator[jsonschema.ValidationError]:
    seen: set[str] = set()
    for item in items if unique and isinstance(items, list) else ():
        whole = isinstance(item, float) and item.is_integer()
        if (text := repr(int(item) if whole else item)) in seen:
            yield jsonschema.ValidationError(f"{cut(str(item))} is there twice")
            return
        seen.add(text)


# jsonschema's own uniqueItems compares each item with each.
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"uniqueItems": _unique_items})


def _explain(error: jsonschema.ValidationError, value: object) -> Iterator[str]:
    """Yield what is wrong, in words. `value` is the instance, as it is shown."""
    path, limit = list(error.path), error.validator_value
    where = f"{dotted(path)}: " if path else ""
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            for key in error.instance:
                if key not in known:
                    yield f"{dotted([*path, key])}: unknown key{nearest(key, known)}"
        case "required":
            key = next(key for key in limit if f"{key!r} is a required property" == error.message)
            yield f"{dotted([*path, key])}: missing"
        case "type":
            types = [limit] if isinstance(limit, str) else [name for name in limit if name != "null"]
            quotes = "; put it in quotes" if "string" in types and isinstance(value, int | float) else ""
            yield f"{where}expected {' or '.join(TYPES[name] for name in types)}, got {_shown(value)}{quotes}"
        case "enum":
            yield f"{where}unknown value {_shown(value)}{nearest(str(error.instance)[:999], map(str, limit))}"
        case "pattern" if "propertyNames" in error.schema_path:
            yield f"{dotted([*path, error.instance])}: not a name: use {error.schema['$comment']}"
        case "pattern":
            yield f"{where}expected {error.schema['$comment']}, got {_shown(value)}"
        case "minimum":
            yield f"{where}must be {limit} or more, got {_shown(value)}"
        case "exclusiveMinimum":
            yield f"{where}must be more than {limit}, got {_shown(value)}"
        case "maximum":
            yield f"{where}must be {limit} or less, got {_shown(value)}"
        case "minLength" | "minItems" | "minProperties":
            yield f"{where}must not be empty"
        case "maxLength":
            yield f"{where}must have at most {limit} characters, and has {len(error.instance):,}"
        case "maxItems" | "maxProperties":
            yield f"{where}must have at most {limit} entries, and has {len(error.instance):,}"
        case _:
            yield f"{where}{error.message}"


def _shown(value: object) -> str:
    """Return a value of a fault, short and on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "keys with values"
        case list():
            return "a list"
    return cut(repr(value))
