"""This module makes the commands of the scripts that make artifacts, with the options that several of them have."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hexport.errors import one_line_errors
from hexport.script_job import ScriptJob


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


def job_command(settings: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for `main(job, output, …)` of a script that writes the artifact `output`.

    It becomes a command with the options --settings, --output and --log beside its own. Its help is the docstring of
    the script, and `settings` tells there what the settings hold: the projection of the config that the job depends on.
    Its errors are one line.
    """

    def command(main: Callable[..., None]) -> click.Command:
        @functools.wraps(main)
        def run(settings: dict, log: Path | None, **options: Any) -> None:
            main(ScriptJob(main.__globals__["__file__"], settings, log), **options)

        decorated = one_line_errors(run)
        for option in (
            file_option("--log", required=False),
            file_option("--output", help="the artifact"),
            click.option("--settings", type=JsonObject(), required=True, help=settings),
        ):
            decorated = option(decorated)
        return click.command(help=main.__globals__["__doc__"])(decorated)

    return command


def file_option(*names: str, required: bool = True, **facts: Any) -> Callable:
    """Return the decorator of an option that takes a path; `facts` are as `click.option` takes them."""
    return click.option(*names, type=click.Path(path_type=Path), required=required, **facts)


checkpoint_option = file_option("--checkpoint", help="…/checkpoint/model.safetensors")
config_option = file_option("--config", help="…/checkpoint/config.json")
tokens_option = file_option("--tokens", help="…/calibration/tokens.json")
quant_attrs_option = file_option("--quant-attrs", help="…/quant_attrs.json")
weights_option = file_option("--weights", required=False, help="…/weights.safetensors, if the recipe has them")
templates_option = file_option("--templates", multiple=True, help="…/ar<N>.json, of each AR length")
tokenizer_option = file_option("--tokenizer", help="…/tokenizer/tokenizer.json")


def quantised_model_options(main: Callable) -> Callable:
    """Decorate with the options of the files of a quantised model."""
    return checkpoint_option(quant_attrs_option(weights_option(main)))


def evaluation_options(main: Callable) -> Callable:
    """Decorate with the options of what texts are read with, and of texts that are local."""
    states = file_option("--states", help="folder of hidden states to be shared")
    texts = click.option("--local", "texts", multiple=True, metavar="NAME=PATH", help="the file of a local text")
    return tokenizer_option(texts(states(main)))
