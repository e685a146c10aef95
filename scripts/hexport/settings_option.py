"""This module defines the option --settings of the scripts: the projection of the config that a job depends on."""

import functools
import json
from typing import Any

import click


class JsonObject(click.ParamType):
    """A JSON object is given as a file, or as `-` for standard input, that holds one.

    Settings come in a file since they can be longer than the words of a command line may be (128 kB on Linux).
    """

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict:
        try:
            with click.open_file(value, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError, RecursionError) as error:
            self.fail(f"{value}: {error}", param, ctx)
        if not isinstance(content, dict):
            self.fail(f"{value}: expected a JSON object", param, ctx)
        return content


settings_option = functools.partial(click.option, "--settings", type=JsonObject(), required=True)
