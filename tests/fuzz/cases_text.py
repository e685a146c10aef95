"""Texts and what is made of them: chat templates, calibration data of all kinds, results that reports are made of."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import seeds
from case import DEEP_JSON, RUBBISH, Call, Case, Subject, damaged, links, mutated, not_a_file, put
from cases_checkpoint import not_files

from hexport.tokenizers import chat

TOKENIZER = ["--tokenizer", "tokenizer/tokenizer.json"]
OUTPUT = ["--output", "out/tokens.json", "--log", "log"]
PROMPTS = {"prompts": ["Once upon a time"], "system_prompt": ""}
RAN = "open('../../../outside/ran', 'w')"
TEMPLATES = {
    "endless loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "much text": "{% for a in range(99999) %}{% for b in range(99999) %}abcdefgh{% endfor %}{% endfor %}",
    "a long repetition": "{{ 'a' * 10**9 }}",
    "repetitions of repetitions": "{% set a = 'abcd' * 10**4 %}{{ ((a * 10**4) * 10**4)|length }}",
    "a list repeated": "{{ ([0] * 10**9)|length }}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a wide filter": "{{ '%1000000000d'|format(1) }}",
    "a wide indent": "{{ [1, [2]]|tojson(indent=10**9) }}",
    "a wide centre": "{{ 'a'|center(10**9) }}",
    "a wide method": "{{ 'a'.ljust(10**9) }}",
    "a power": "{{ 10**(10**8) }}",
    "a shift": "{{ (1).__lshift__(10**10) }}",
    "a join": "{{ (['a' * 1000] * 10**6)|join }}",
    "doubling": "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "replacements": (
        "{% set n = namespace(a='a') %}{% for i in range(40) %}{% set n.a = n.a.replace('a', 'aa') %}{% endfor %}"
    ),
    "macros that call each other": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "macros that fan out": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "its class": "{{ ''.__class__.__mro__ }}",
    "the globals of cycler": "{{ cycler.__init__.__globals__.os.system('touch ../../../outside/ran') }}",
    "the globals of a function": f"{{{{ raise_exception.__globals__['__builtins__']['eval'](\"{RAN}\") }}}}",
    "an include": "{% include '/etc/passwd' %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "no end": "{% for m in messages %}",
    "a filter that there is not": "{{ messages|nothing }}",
    "a variable that there is not": "{{ nothing.at.all }}",
    "its own error with ANSI": "{{ raise_exception('\x1b[31mred\n\x07') }}",
    "its own error of 1 MB": "{{ raise_exception('x' * 10**6) }}",
    "a division by zero": "{{ 1 // 0 }}",
    "a random sort": "{{ range(10**9)|list|sort|length }}",
    "a batch": "{{ range(10**9)|batch(1)|list|length }}",
    "10 MB of it": "x" * 10_000_000 + "{{ nothing.at }}",
}  # fmt: skip


def _encode(template: str, settings: dict = PROMPTS) -> Callable[[], Call]:
    def prepare() -> Call:
        folder = links(seeds.tokenizer(), Path("tokenizer"))
        config = json.loads((seeds.tokenizer() / "tokenizer_config.json").read_text())
        put(folder / "tokenizer_config.json", config | {"chat_template": template})
        chat.SECONDS = 1  # of the processor, in place of 5
        return Call("encode_calibration", [*TOKENIZER, *OUTPUT], settings)

    return prepare


def _named_templates() -> Iterator[Case]:
    for name, template in TEMPLATES.items():
        yield Case(name, _encode(template))
    for name, template in {
        "a date": "{{ strftime_now('%s %Y' * 1000) }}",
        "half a character": "{{ '\\ud800' }}",
        "many prompts of slow templates": "{% for a in range(99999) %}{% endfor %}x",
    }.items():
        yield Case(name, _encode(template, {"prompts": ["a"] * 30, "system_prompt": ""}), may_pass=True)


def _other_template(random: Random) -> Case:
    words = ["{{", "}}", "{%", "%}", " for m in messages ", "endfor", " if ", "endif", "m.content", "|tojson", "(", ")"]
    words += ["'a'", "*", "10**6", "[", "]", " set x = ", "x", "|length", ".format", "range(9)", "~", "\n", "{#", "#}"]
    if random.random() < 0.5:
        name, content = damaged(seeds.TEMPLATE.encode(), random)
        return Case(name, _encode(content.decode(errors="replace")), may_pass=True)
    template = "".join(random.choice(words) for _ in range(random.randrange(2, 30)))
    return Case(f"{template!r}", _encode(template), may_pass=True)


def _tokenizer_of(name: str, content: bytes | str | dict) -> Callable[[], Call]:
    """The canonical tokenizer, with another file of this name."""

    def prepare() -> Call:
        put(links(seeds.tokenizer(), Path("tokenizer")) / name, content)
        return Call("encode_calibration", [*TOKENIZER, *OUTPUT], PROMPTS)

    return prepare


def _from_file(kind: str, content: bytes | str | dict | list) -> Callable[[], Call]:
    def prepare() -> Call:
        links(seeds.tokenizer(), Path("tokenizer"))
        put(Path("data"), content)
        return Call("encode_calibration", [*TOKENIZER, f"--{kind}", "data", *OUTPUT], {kind: "data"})

    return prepare


CHATS = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}]


def _named_calibration() -> Iterator[Case]:
    good = CHATS[0]["messages"]
    for name, chats in {
        "an object": {"messages": good},
        "no chats": [],
        "a chat of no messages": [{"messages": []}],
        "a chat that is a list": [good],
        "a message that is a text": [{"messages": ["x"]}],
        "a message without a role": [{"messages": [{"content": "x"}]}],
        "a role that is a list": [{"messages": [{"role": [], "content": "x"}]}],
        "content that is a list": [{"messages": [{"role": "user", "content": [{"type": "text"}]}]}],
        "half a character": [{"messages": [{"role": "user", "content": "\ud800"}]}],
        "half a character as a role": [{"messages": [{"role": "\udfff", "content": "x"}]}],
        **RUBBISH,
        **DEEP_JSON,
    }.items():
        yield Case(f"samples: {name}", _from_file("samples", chats))
    for name, text in {
        "a line of 50 MB": "ab" * 25_000_000,
        "half a character": "\ud800",
        "white space": " \n\t" * 1000,
        **{name: RUBBISH[name] for name in ("nothing", "UTF-16", "Latin-1")},
    }.items():
        yield Case(f"text: {name}", _from_file("text", text))
    yield Case("text: NUL bytes", _from_file("text", bytes(64)), may_pass=True)
    for kind in ("samples", "text"):
        for what in not_a_file(Path("x")):
            yield Case(f"{kind}: {what}", _not_file(kind, what))
    for name, settings in {
        "half a character": {"prompts": ["\ud800"]},
        "half a character as system prompt": {"prompts": ["a"], "system_prompt": "\udfff"},
        "no prompts": {"prompts": []},
    }.items():
        yield Case(f"prompts: {name}", _encode(seeds.TEMPLATE, settings))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for what, content in (RUBBISH | DEEP_JSON).items():
            yield Case(f"{name}: {what}", _tokenizer_of(name, content))
    written = json.loads((seeds.tokenizer() / "tokenizer_config.json").read_text())
    for key, value in (
        ("stop_tokens", 7), ("stop_tokens", [7]), ("stop_tokens", [[]]), ("stop_tokens", "x"), ("stop_tokens", None),
        ("add_bos_token", "x"), ("add_bos_token", []), ("chat_template", 7), ("chat_template", []),
    ):  # fmt: skip
        yield Case(f"{key}: {value!r}", _tokenizer_of("tokenizer_config.json", written | {key: value}))
    call = Call("encode_calibration", ["--tokenizer", "source/tokenizer.json", *OUTPUT], PROMPTS)
    yield from not_files(seeds.tokenizer(), {"tokenizer.json": False, "tokenizer_config.json": False}, lambda: call)


def _not_file(kind: str, what: str) -> Callable[[], Call]:
    def prepare() -> Call:
        call = _from_file(kind, b"")()
        Path("data").unlink()
        not_a_file(Path("data"))[what]()
        return call

    return prepare


def _other_calibration(random: Random) -> Case:
    if random.random() < 0.3:
        name, content = damaged(json.dumps(CHATS).encode(), random)
    else:
        name, mutation = mutated({"chats": CHATS}, random)
        content = mutation.get("chats")
    return Case(
        f"samples: {name}",
        _from_file("samples", json.dumps(content) if not isinstance(content, bytes) else content),
        True,
    )


SUBJECTS = {
    "chat templates": Subject(_named_templates, _other_template),
    "calibration data": Subject(_named_calibration, _other_calibration),
}
