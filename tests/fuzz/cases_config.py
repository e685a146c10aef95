"""config.yaml, devices.yaml and recipes, read as the Snakefile reads them."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import seeds
import yaml
from case import DEEP_JSON, RUBBISH, Call, Case, Subject, damaged, mutated, not_a_file, put, with_value, without

DEVICES = {
    "devices": {
        "emulator": {"kind": "emulator", "soc": "SM8650"},
        "s24": {"kind": "adb", "soc": "SM8650", "serial": "R5", "runner": "hexport", "timeout": 60, "cache_gb": 2},
    }
}
HUGE = "9" * 5000


def config() -> dict:
    """A good config.yaml with most keys."""
    model = {
        "checkpoint": str(seeds.hf()),
        "modes": ["kv", "hybrid", "lookahead"],
        "recipe": ["mine", "16a8w"],
        "max_seq_len": [256, 512],
        "prefill_ar_len": 32,
        "ngram": 3,
        "window": 4,
        "gcap": 4,
        "num_sharding": 1,
        "calibration": {"prompts": ["Once upon a time"]},
        "prompts": ["Once"],
        "system_prompt": "",
        "temperature": 0,
        "seq_len": 64,
        "repeats": 1,
        "warmup": 0,
        "evaluation": {"tasks": ["mine"], "limit": 1, "max_perplexity_ratio": 1.5, "min_sqnr_db": 10},
    }
    return {
        "artifacts": "artifacts",
        "devices": "devices.yaml",
        "socs": ["SM8650"],
        "models": {"a": model},
        "recipes": {
            "mine": {"based_on": "16a8w", "overrides": [{"layers": "0", "points": "*_proj", "weight_bits": 8}]}
        },
        "tasks": {"mine": {"text": str(seeds.text())}},
    }


MODEL = ("models", "a")
OVERRIDES = ("recipes", "mine", "overrides")
# Values that no key of this name takes.
WRONG = {
    "artifacts that are the root": (("artifacts",), "/"),
    "artifacts in /proc": (("artifacts",), "/proc/x"),
    "artifacts in the code": (("artifacts",), str(Path(__file__).parents[2] / "scripts")),
    "artifacts elsewhere": (("artifacts",), "s3://bucket/x"),
    "artifacts with braces": (("artifacts",), "{x}"),
    "artifacts with a path variable": (("artifacts",), "<artifacts>"),
    "artifacts with NUL": (("artifacts",), "a\0b"),
    "artifacts that are a file": (("artifacts",), "config.yaml"),
    "artifacts with a line break": (("artifacts",), "a\nb"),
    "devices that are a folder": (("devices",), "."),
    "devices with NUL": (("devices",), "a\0b"),
    "a checkpoint with NUL": ((*MODEL, "checkpoint"), "a\0b"),
    "a checkpoint of 5000 letters": ((*MODEL, "checkpoint"), "x" * 5000),
    "a checkpoint with braces": ((*MODEL, "checkpoint"), "{x}"),
    "a checkpoint with ANSI": ((*MODEL, "checkpoint"), "\x1b[31mred\n"),
    "half an IPv6 address": ((*MODEL, "checkpoint"), "https://[::1"),
    "a URI over http": ((*MODEL, "checkpoint"), "http://localhost/x.gguf"),
    "a URI with a line break": ((*MODEL, "checkpoint"), "https://localhost/x\n.gguf#sha256=" + "0" * 64),
    "a URI that climbs": ((*MODEL, "checkpoint"), "hf://org/repo@main/../../x.gguf"),
    "a tokenizer with NUL": ((*MODEL, "tokenizer"), "a\0b"),
    "a tokenizer of 5000 letters": ((*MODEL, "tokenizer"), "x" * 5000),
    "ready programs with NUL": ((*MODEL, "pre_gen_pte"), "a\0b"),
    "an infinite temperature": ((*MODEL, "temperature"), float("inf")),
    "a temperature of 10**400": ((*MODEL, "temperature"), 10**400),
    "a temperature that is no number": ((*MODEL, "temperature"), float("nan")),
    "a gate of 10**400": ((*MODEL, "evaluation", "min_sqnr_db"), 10**400),
    "a gate that is no number": ((*MODEL, "evaluation", "max_perplexity_ratio"), float("nan")),
    "a huge n-gram": ((*MODEL, "ngram"), 10**400),
    "an n-gram of 2**62": ((*MODEL, "ngram"), 2**62),
    "a huge context": ((*MODEL, "max_seq_len"), 10**400),
    "a huge context in a list": ((*MODEL, "max_seq_len"), [256, 10**400]),
    "lists of contexts in a list": ((*MODEL, "max_seq_len"), [[256]]),
    "recipes that are no names": ((*MODEL, "recipe"), ["mine", {"based_on": "16a8w"}, "\x1b[31m"]),
    "a recipe of 3 bits": ((*OVERRIDES, 0, "weight_bits"), 3),
    "a recipe based on itself": (("recipes", "mine", "based_on"), "mine"),
    "a recipe based on nothing": (("recipes", "mine", "based_on"), "x\x1b[31m"),
    "an override of nothing": ((*OVERRIDES, 0, "points"), "nothing"),
    "an override with a broken glob": ((*OVERRIDES, 0, "layers"), "["),
    "a task with NUL in its path": (("tasks", "mine", "text"), "a\0b"),
    "prompts with half a character": ((*MODEL, "prompts"), ["\ud800"]),
    "an unknown SoC": (("socs",), ["SM\n"]),
}
TALKS = [["Once", "upon"], ["a time"]]
# Files of prompts that hold none.
NO_PROMPTS = {
    "300,000 numbers": [7] * 300_000,
    "250,000 empty texts": [""] * 250_000,
    "200,000 texts": [["a"] * 200_000],
    "lists in lists": [[[["a"]]]],
    "texts and lists": ["a", ["b"]],
    "an empty conversation": [["a"], []],
    "half a character": ["\ud800"],
    "no text": [["a"], [None]],
    "chats": [{"messages": [{"role": "user", "content": "\x1b[31m"}]}],
}
NAMES = {
    "with a line break": "a\n",
    "of 300 letters": "x" * 300,
    "that climbs": "..",
    "with a slash": "a/b",
    "with NUL": "a\0",
    "that is empty": "",
    "that Snakemake takes for wildcards": "{x}",
}
TEXTS = {
    "an alias bomb": "models:\n  a: &a [x, x]\n" + "".join(
        f"  {chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
    ),
    "a bomb of merge keys": "a0: &a0 {k: 1}\n" + "".join(
        f"a{i}: &a{i} {{x{i}: {{<<: *a{i - 1}}}, y{i}: *a{i - 1}}}\n" for i in range(1, 40)
    ),
    "an alias of itself": "models: &a\n  a: *a\n",
    "a list in itself": "socs: &a [*a]\nmodels: {a: {checkpoint: x}}\n",
    "deep lists": "models: " + "[" * 20_000 + "]" * 20_000,
    "deep indents": "".join(" " * i + "a:\n" for i in range(2000)),
    "a number of 5000 digits": f"models: {{a: {{checkpoint: x, max_seq_len: {HUGE}}}}}",
    "a number of 5000 digits in base 60": "models: {a: {checkpoint: x, max_seq_len: " + ":".join(["59"] * 5000) + "}}",
    "a date that there is not": "models: {a: {checkpoint: 2026-13-45}}",
    "binary that is none": "models: {a: {checkpoint: !!binary x}}",
    "a Python object": "models: !!python/object/apply:os.system [touch ../../../outside/ran]",
    "templates of YTE": "__use_yte__: true\n__definitions__: ['open(\"../../../outside/ran\", \"w\")']\n",
    "an expression of YTE": "models:\n  ?__import__('os').system('touch ../../../outside/ran'): {checkpoint: x}\n",
    "two documents": "models: {a: {checkpoint: x}}\n---\nmodels: {}\n",
    "a key twice": "models: {}\nmodels: {}\n",
    "a tab": "models:\n\ta: {}\n",
    "a key that is a list": "? [a]\n: 1\n",
    "a key of 100,000 letters": f"{'x' * 100_000}: 1\n",
    "a line of 20 MB": f"# {'x' * 20_000_000}\n: ",
    "control characters": "models: {\"\\x1b[31m\": {checkpoint: x}}",
}  # fmt: skip


def _plan(document: dict | str | bytes, devices: dict | str | bytes | None = None) -> Callable[[], Call]:
    def prepare() -> Call:
        for name, content in (("config.yaml", document), ("devices.yaml", DEVICES if devices is None else devices)):
            put(Path(name), _yaml(content) if isinstance(content, dict) else content)
        put(Path("t.yaml"), f"task: t\ndoc_to_text: !function {Path.cwd()}/code.x\n")
        put(Path("code.py"), "open('../../../outside/ran', 'w')\n")
        return Call("plan", ["config.yaml"])

    return prepare


def _prompts(content: str | bytes | list) -> Callable[[], Call]:
    """A good config whose prompts are in a file of this content."""

    def prepare() -> Call:
        put(Path("talks.json"), content)
        return _plan(with_value(config(), (*MODEL, "prompts"), "talks.json"))()

    return prepare


def _yaml(document: dict) -> str:
    return yaml.dump(document, allow_unicode=False, sort_keys=False)


def _named_config() -> Iterator[Case]:
    good = config()
    yield Case("nothing wrong", _plan(good), may_pass=True)
    for name, (path, value) in WRONG.items():
        yield Case(name, _plan(with_value(good, path, value)))
    for name, word in NAMES.items():
        for kind in ("models", "recipes", "tasks"):
            renamed = copy.deepcopy(good)
            renamed[kind][word] = renamed[kind]["a" if kind == "models" else "mine"]
            yield Case(f"a name in {kind} {name}", _plan(renamed))
    for name, text in (TEXTS | RUBBISH).items():
        yield Case(name, _plan(text))
    yield Case("prompts in a file", _prompts(TALKS), may_pass=True)
    for name, content in (NO_PROMPTS | RUBBISH | DEEP_JSON).items():
        yield Case(f"{name} as prompts", _prompts(content))
    yield Case("a task file without consent", _plan(with_value(good, (*MODEL, "evaluation", "tasks"), ["t.yaml"])))
    for key in (("surplus",), (*MODEL, "surplus"), ("recipes", "mine", "surplus"), ("tasks", "mine", "surplus")):
        yield Case(f"a key {'.'.join(key)}", _plan(with_value(good, key, "\x1b[31m")))
    yield from _not_files(good)


def _not_files(good: dict) -> Iterator[Case]:
    """What is no file, in place of each file that planning reads or looks at."""
    places = {"config.yaml": (), "devices.yaml": ("devices",), "a checkpoint": (*MODEL, "checkpoint")}
    places |= {"prompts": (*MODEL, "prompts"), "a task's text": ("tasks", "mine", "text")}
    for what, path in places.items():
        for kind in not_a_file(Path("x")):
            looked_at = what in ("config.yaml", "devices.yaml", "prompts")  # the others are read by jobs
            yield Case(f"{kind} for {what}", _not_file(good, path, kind), may_pass=not looked_at)


def _not_file(good: dict, path: tuple, kind: str) -> Callable[[], Call]:
    def prepare() -> Call:
        _plan(with_value(good, path, "x.gguf") if path else good)()
        if path:
            not_a_file(Path("x.gguf"))[kind]()
        else:
            Path("config.yaml").unlink()
            not_a_file(Path("config.yaml"))[kind]()
        return Call("plan", ["config.yaml"])

    return prepare


def _named_devices() -> Iterator[Case]:
    phone = ("devices", "s24")
    wrong = {
        "an endless timeout": ((*phone, "timeout"), float("inf")),
        "a timeout of 10**400": ((*phone, "timeout"), 10**400),
        "a timeout that is no number": ((*phone, "timeout"), float("nan")),
        "a cache of 10**400 GB": ((*phone, "cache_gb"), 10**400),
        "a port of 65536": ((*phone, "adb_server"), {"port": 65536}),
        "an unknown SoC with ANSI": ((*phone, "soc"), "\x1b[31mred"),
        "a variable that is not set": ((*phone, "serial"), "${NO_SUCH_VARIABLE}"),
        "a serial of nothing": ((*phone, "serial"), ""),
        "a serial with a line break": ((*phone, "serial"), "a\nb"),
        "a serial with NUL": ((*phone, "serial"), "a\0b"),
        "a build with NUL in its path": ((*phone, "build_path"), "a\0b"),
        "no devices": (("devices",), {}),
        "the name of the phones together": (("devices", "phones"), DEVICES["devices"]["s24"]),
    }
    for name, (path, value) in wrong.items():
        yield Case(name, _plan(config(), with_value(DEVICES, path, value)))
    for name, word in NAMES.items():
        yield Case(f"a name {name}", _plan(config(), with_value(DEVICES, ("devices", word), DEVICES["devices"]["s24"])))
    for name, text in (TEXTS | RUBBISH).items():
        yield Case(name, _plan(config(), text))
    yield Case("a device without a kind", _plan(config(), without(DEVICES, ("devices", "emulator", "kind"))))


def _named_recipes() -> Iterator[Case]:
    good = config()
    override = good["recipes"]["mine"]["overrides"][0]
    for count in (1000, 5000):
        document = with_value(good, OVERRIDES, [{**override, "points": f"*_proj{'*' * (i % 9)}"} for i in range(count)])
        yield Case(f"{count} overrides", _plan(document), may_pass=True)
    for key in ("weight_bits", "activation_bits", "granularity", "block_size", "seq_mse", "gptq", "observer"):
        for value in (-1, 10**400, float("nan"), "\x1b[31m", [], {}):
            yield Case(f"{key}: {value!r:.20}", _plan(with_value(good, (*OVERRIDES, 0, key), value)))
    for key in ("kv_bits", "logits_bits", "r1", "r2", "r3", "widen", "masked_softmax", "tune_scales"):
        yield Case(f"{key}: 3", _plan(with_value(good, ("recipes", "mine", key), 3)))
    yield Case("a glob of 10,000 stars", _plan(with_value(good, (*OVERRIDES, 0, "points"), "*a" * 10_000 + "b")))
    chain = {f"r{i}": {"based_on": f"r{i + 1}"} for i in range(2000)} | {"r2000": {"based_on": "16a8w"}}
    yield Case("a chain of 2000 recipes", _plan(with_value(good, ("recipes",), chain | good["recipes"])), may_pass=True)
    circle = chain | {"r2000": {"based_on": "r0"}}
    yield Case("a circle of 2000 recipes", _plan(with_value(good, ("recipes",), circle | good["recipes"])))


def _other_config(random: Random) -> Case:
    good = config()
    if random.random() < 0.1:
        name, talks = mutated({"prompts": TALKS}, random)
        return Case(f"{name} in a file", _prompts(json.dumps(talks.get("prompts"))), may_pass=True)
    if random.random() < 0.2:
        name, text = damaged(_yaml(good).encode(), random)
        return Case(name, _plan(text), may_pass=True)
    name, document = mutated(good, random)
    return Case(name, _plan(document), may_pass=True)


def _other_devices(random: Random) -> Case:
    name, document = mutated(DEVICES, random)
    return Case(name, _plan(config(), document), may_pass=True)


def _other_recipe(random: Random) -> Case:
    good = config()
    name, recipe = mutated(good["recipes"]["mine"], random)
    return Case(name, _plan(with_value(good, ("recipes", "mine"), recipe)), may_pass=True)


SUBJECTS = {
    "config": Subject(_named_config, _other_config),
    "devices": Subject(_named_devices, _other_devices),
    "recipes": Subject(_named_recipes, _other_recipe),
}
