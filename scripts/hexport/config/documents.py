"""This module reads YAML files that users write, strictly: what is wrong is one line with its line number.

A file is data: tags and templates are refused, and so is what costs more to read than it could be worth, such as nested
aliases that a few hundred bytes blow up to gigabytes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from hexport.errors import HexportError, one_line

MAX_BYTES = 1_000_000
MAX_SIZE = 4_000_000  # characters and values, once every alias stands for what it names
MAX_NODES = 20_000
MAX_DEPTH = 32
MAX_DIGITS = 100
TEXT_TAG = "tag:yaml.org,2002:str"
SURROGATE = re.compile(r"[\ud800-\udfff]")
# What makes a file a template of YTE, which Snakemake's --configfile would execute (https://yte-template-engine.github.io).
TEMPLATE_KEYS = ("__use_yte__", "__definitions__", "__variables__")
TEXTS = ("prompts", "system_prompt")  # what a model reads may begin with any character


def read_yaml(path: Path) -> dict:
    """Return the keys and values of a YAML file.

    Raises HexportError where it is missing, is no regular file of at most MAX_BYTES, is not YAML, is a template, is not
    a mapping, has a key twice, or blows up as no config does.
    """
    try:
        document = yaml.load(_text(path), _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise HexportError(f"{path}: line {mark.line + 1}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise HexportError(f"{path}: {one_line(error)}") from None
    if not isinstance(document, dict):
        raise HexportError(f"{path}: expected keys with values, got {'nothing' if document is None else 'other YAML'}")
    for marker in _template_markers(document):
        raise HexportError(
            f"{path}: {marker} makes it a template, which executes code; hexport reads plain YAML: write the values"
        )
    return document


def check_file(path: Path) -> None:
    """Check that a path is a regular file; raise HexportError where it is not. A pipe, for one, would be waited for."""
    if not path.exists():
        raise HexportError(f"{path}: no such file")
    if not path.is_file():
        raise HexportError(f"{path}: expected a file, got a {'folder' if path.is_dir() else 'pipe or device'}")


def _text(path: Path) -> str:
    try:
        check_file(path)
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:  # a name that is too long, a file of someone else
        raise HexportError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise HexportError(f"{path}: more than {MAX_BYTES:,} bytes; keep long texts in files of their own")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HexportError(f"{path}: not UTF-8 text") from None


def _template_markers(value: object) -> Iterator[str]:
    """Yield keys and values that YTE would take for its own."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in TEMPLATE_KEYS or key.startswith("?"):
                yield f"the key {key[:60]!r}"
            if key not in TEXTS:
                yield from _template_markers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _template_markers(item)
    elif isinstance(value, str) and value.startswith("?"):
        yield f"the value {value[:60]!r}"


class BoundedLoader(yaml.SafeLoader):
    """A bounded loader is PyYAML's safe loader with limits on nesting, on the number of nodes, and on what aliases
    stand for."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of finished nodes, by identity

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if self._depth == MAX_DEPTH:
            raise self.fault(event, f"more than {MAX_DEPTH} levels")
        if len(self._sizes) == MAX_NODES:
            raise self.fault(event, f"more than {MAX_NODES:,} keys and values; keep data in files of their own")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise self.fault(event, f"alias {event.anchor[:60]} is a part of itself")
            return node
        if isinstance(node, yaml.ScalarNode) and SURROGATE.search(node.value):
            raise self.fault(event, "half a character (a lone surrogate)")
        self._sizes[id(node)] = self._size(node)
        if self._sizes[id(node)] > MAX_SIZE:
            raise self.fault(event, "too large once its aliases are written out")
        return node

    @staticmethod
    def fault(where: yaml.Event | yaml.Node, problem: str) -> yaml.MarkedYAMLError:
        """Return an error that names the line where a problem is."""
        return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)

    def _size(self, node: yaml.Node) -> int:
        """Return the characters and values of a node whose parts are finished, with aliases written out."""
        match node:
            case yaml.ScalarNode():
                return 1 + len(node.value)
            case yaml.SequenceNode():
                return 1 + sum(self._sizes[id(item)] for item in node.value)
            case _:
                return 1 + sum(self._sizes[id(part)] for pair in node.value for part in pair)


class _StrictLoader(BoundedLoader):
    """A strict loader also refuses a key that occurs twice in a mapping or is not text, a tag, and a number of more
    than MAX_DIGITS. It reads a date as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, TEXT_TAG):
            raise self.fault(event, f"a tag, {event.tag[:60]}; write plain values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise self.fault(key_node, f"key {str(key_node.value)[:60]} is not text; put it in quotes")
            if key in seen:
                raise self.fault(key_node, f"key {key[:60]} is there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return the number that a node spells. Raises MarkedYAMLError where it has too many digits, or none, such as
        0x_."""
        construct = self.construct_yaml_float if node.tag.endswith("float") else self.construct_yaml_int
        if len(node.value) > MAX_DIGITS:
            raise self.fault(node, f"a number of {len(node.value):,} characters, and {MAX_DIGITS} are the most")
        try:
            return construct(node)
        except ValueError:
            raise self.fault(node, f"{node.value} is no number; put it in quotes if it is text") from None


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _StrictLoader.construct_number)
