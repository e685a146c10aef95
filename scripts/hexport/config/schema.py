"""JSON schemas of config.yaml and devices.yaml: validation with one line per fault, and defaults."""

import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import jsonschema

from hexport.config.documents import read_yaml
from hexport.errors import HexportError

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


@cache
def schema(name: str) -> dict:
    """The schema of `<name>.yaml`."""
    return read_yaml(SCHEMAS / f"{name}.schema.yaml")


def defaults(properties: dict) -> dict:
    """Key -> default of the properties that have one."""
    return {key: rule["default"] for key, rule in properties.items() if "default" in rule}


def schema_errors(document: dict, name: str) -> Iterator[str]:
    """One line `where: what is wrong` for each place where the document breaks the schema of `<name>.yaml`."""
    faults = sorted(
        jsonschema.Draft202012Validator(schema(name)).iter_errors(document),
        key=lambda error: [str(part) for part in error.path],
    )
    mistyped = [error.path for error in faults if error.validator == "type"]
    for error in faults:
        if error.validator == "type" or error.path not in mistyped:
            yield from _explain(error)


def raise_all(source: str, faults: Iterator[str] | list[str]) -> None:
    """Raise one HexportError with a line for each fault in the file `source`, if there are any."""
    if lines := [f"{source}: {fault}" for fault in faults]:
        raise HexportError(*lines)


def dotted(path: Iterable[str | int]) -> str:
    """`models.a.modes[0]` of the parts of a path."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or `; known: x, y` where nothing known resembles the word."""
    known = list(known)
    folded = {name.casefold(): name for name in reversed(known)}
    if close := difflib.get_close_matches(word.casefold(), folded, 1):
        return f"; did you mean {folded[close[0]]}?"
    return f"; known: {', '.join(known)}"


def _explain(error: jsonschema.ValidationError) -> Iterator[str]:
    path, limit, value = list(error.path), error.validator_value, error.instance
    where = f"{dotted(path)}: " if path else ""
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            for key in value:
                if key not in known:
                    yield f"{dotted([*path, key])}: unknown key{nearest(key, known)}"
        case "required":
            yield f"{dotted([*path, _missing_key(error)])}: missing"
        case "type":
            types = [limit] if isinstance(limit, str) else [name for name in limit if name != "null"]
            quotes = "; put it in quotes" if types == ["string"] and isinstance(value, int | float) else ""
            yield f"{where}expected {' or '.join(TYPES[name] for name in types)}, got {_shown(value)}{quotes}"
        case "enum":
            yield f"{where}unknown value {_shown(value)}{nearest(str(value), map(str, limit))}"
        case "pattern" if "propertyNames" in error.schema_path:
            yield f"{dotted([*path, value])}: not a name: use {error.schema['$comment']}"
        case "pattern":
            yield f"{where}expected {error.schema['$comment']}, got {_shown(value)}"
        case "minimum":
            yield f"{where}must be {limit} or more, got {value}"
        case "exclusiveMinimum":
            yield f"{where}must be more than {limit}, got {value}"
        case "maximum":
            yield f"{where}must be {limit} or less, got {value}"
        case "minLength" | "minItems" | "minProperties":
            yield f"{where}must not be empty"
        case "uniqueItems":
            twice = next(item for i, item in enumerate(value) if item in value[:i])
            yield f"{where}{twice} is there twice"
        case _:
            yield f"{where}{error.message}"


def _missing_key(error: jsonschema.ValidationError) -> str:
    return next(key for key in error.validator_value if f"{key!r} is a required property" == error.message)


def _shown(value: object) -> str:
    """A value of a fault, short and on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "keys with values"
        case list():
            return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
