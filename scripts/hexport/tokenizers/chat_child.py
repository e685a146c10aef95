"""This module is the process that renders chat templates, in a sandbox and with few resources.

A template is a program by its publisher. The process answers each line of its standard input, a JSON object of
`template`, `messages`, `special` and `generation_prompt`, with one line: {"text": …} or {"error": …}. It imports
nothing of hexport, so it starts in a tenth of a second.
"""

import functools
import json
import resource
import signal
import sys
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A template that asks for today's date gets this one, so that ids are the same on every day. Llama 3.2's own template
# falls back to it.
TODAY = datetime(2024, 7, 26)
MEMORY_BYTES = 512 << 20
MAX_CHARACTERS = 4_000_000  # of a rendered text: a million tokens or so, more than a context holds


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
    environment.globals["strftime_now"] = TODAY.strftime
    return environment.from_string(template)


def _to_json(value: object, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Return a value as JSON. Unlike jinja's own filter, this one does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _render(template: str, messages: list, special: dict[str, str], generation_prompt: bool) -> dict[str, str]:
    parts, left = [], MAX_CHARACTERS
    try:
        variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generation_prompt}
        for part in _compile(template).generate({**special, **variables}):
            parts.append(part)
            if (left := left - len(part)) < 0:
                return {"error": f"its text has more than {MAX_CHARACTERS} characters"}
    except MemoryError:
        return {"error": f"it takes more than {MEMORY_BYTES >> 20} MB of memory"}
    except Exception as error:  # a template may raise anything
        return {"error": " ".join(str(error)[:500].split()) or type(error).__name__}
    return {"text": "".join(parts)}


def main(seconds: float) -> None:
    """Answer until the input ends. Each rendering may take `seconds` of processor time."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        # The signal ends this process even while it runs no Python code.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answer = json.dumps(_render(**json.loads(line)))
        except MemoryError:
            answer = '{"error": "it takes more memory than it may"}'
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
