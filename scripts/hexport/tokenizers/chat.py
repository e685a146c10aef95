"""Chat templates, rendered as transformers renders them (transformers/utils/chat_template_utils.py)."""

import functools
import json
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hexport.errors import HexportError


def render_chat(
    template: str, messages: list[dict[str, str]], special: dict[str, str], generation_prompt: bool = True
) -> str:
    """Render, up to where the assistant goes on by default. Raises HexportError for a bad template and for messages
    that it refuses.
    """
    try:
        return _compile(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=generation_prompt, **special
        )
    except Exception as error:  # a template is its publisher's program, and may raise anything
        raise HexportError(f"the chat template fails: {' '.join(str(error).split())}") from error


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; it renders as what it contains."""

    tags = frozenset({"generation"})

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.cache
def _compile(template: str) -> jinja2.Template:
    extensions = [_Generation, loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(value: object, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Unlike jinja's own filter, this one does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
