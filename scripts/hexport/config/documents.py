"""YAML files that users write, read strictly: what is wrong is one line with its line number."""

from pathlib import Path

import yaml

from hexport.errors import HexportError


def read_yaml(path: Path) -> dict:
    """Raises HexportError where the file is missing, is not YAML, is not a mapping, or has a key twice."""
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.load(file, _StrictLoader)
    except FileNotFoundError:
        raise HexportError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise HexportError(f"{path}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise HexportError(f"{path}: line {mark.line + 1}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise HexportError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise HexportError(f"{path}: expected keys with values, got {'nothing' if document is None else 'other YAML'}")
    return document


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, but a key that occurs twice in a mapping, or that is not text, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key_node.value} is not text; put it in quotes", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key} is there twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
