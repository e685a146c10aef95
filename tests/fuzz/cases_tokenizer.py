"""Published tokenizers: tokenizer.json and the files beside it, SentencePiece, tiktoken and GGUF; chat templates."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import seeds
from case import (
    DEEP_JSON,
    RUBBISH,
    Call,
    Case,
    Subject,
    damaged,
    links,
    mutated,
    put,
    with_value,
    without,
)  # fmt: skip
from cases_checkpoint import not_files
from gguf_bytes import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, UINT64, Entry, gguf
from sentencepiece.sentencepiece_model_pb2 import ModelProto

CONFIG = "tokenizer_config.json"


def convert(source: str) -> Call:
    return Call("extract_tokenizer", ["--source", source, "--output", "out/tokenizer.json", "--log", "log"], {})


def replaced(name: str, content: bytes | str | dict) -> Callable[[], Call]:
    """The Hugging Face folder with another file of this name."""

    def prepare() -> Call:
        put(links(seeds.hf(), Path("hf")) / name, content)
        return convert("hf")

    return prepare


def of_file(name: str, content: bytes, companions: dict[str, object] | None = None) -> Callable[[], Call]:
    def prepare() -> Call:
        for companion, document in (companions or {}).items():
            put(Path("t") / companion, document)
        return convert(str(put(Path("t") / name, content)))

    return prepare


def _json(name: str) -> dict:
    return json.loads((seeds.hf() / name).read_text())


def _named_huggingface() -> Iterator[Case]:
    good = _json("tokenizer.json")
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": []}
    token = {"id": "<s>", "ids": [256], "tokens": ["<s>"]}
    post = {
        "a template of nothing": {"type": "TemplateProcessing"},
        "a template of unknown tokens": template | {"special_tokens": {}},
        "a token of no ids": template | {"special_tokens": {"<s>": token | {"ids": [], "tokens": []}}},
        "a token of a negative id": template | {"special_tokens": {"<s>": token | {"ids": [-1]}}},
        "an unknown kind": {"type": "\x1b[31m"},
        "a text": "x",
    }  # fmt: skip
    for name, value in post.items():
        harmless = name == "a token of no ids"
        yield Case(f"post_processor: {name}", replaced("tokenizer.json", good | {"post_processor": value}), harmless)
    far = template | {"special_tokens": {"<s>": {"id": "<s>", "ids": [9**9], "tokens": ["<s>"]}}}
    far |= {"pair": [{"Sequence": {"id": "A", "type_id": 0}}] * 3}
    yield Case("post_processor: a far id", replaced("tokenizer.json", good | {"post_processor": far}), may_pass=True)
    for path, value in (
        (("model", "vocab"), []), (("model", "vocab", "a"), -1),
        (("model", "vocab", "a"), 2**32), (("model", "vocab", "a"), "x"), (("model", "merges"), [["a", "\x1b[31m"]]),
        (("model", "merges"), ["a"]), (("model", "merges"), 7), (("model", "type"), "\x1b[31m"),
        (("added_tokens", 0, "id"), -1), (("added_tokens", 0, "id"), 2**40), (("added_tokens", 0, "content"), 7),
        (("pre_tokenizer",), {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
        (("normalizer",), {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
        (("normalizer",), {"type": "Precompiled", "precompiled_charsmap": "AAAA"}), (("decoder",), {"type": "x"}),
    ):  # fmt: skip
        where = ".".join(map(str, path))
        yield Case(f"{where}: {value!r:.30}", replaced("tokenizer.json", with_value(good, path, value)))
    yield Case(
        "vocabulary of 2**31", replaced("tokenizer.json", with_value(good, ("model", "vocab", "a"), 2**31)), True
    )
    for key in ("model", "added_tokens"):
        yield Case(f"no {key}", replaced("tokenizer.json", without(good, (key,))), may_pass=key == "added_tokens")
    for name, content in (RUBBISH | DEEP_JSON).items():
        yield Case(name, replaced("tokenizer.json", content))
    yield from not_files(seeds.hf(), {"tokenizer.json": False}, lambda: convert("source"))


def _named_companions() -> Iterator[Case]:
    good = _json(CONFIG)
    for key in ("bos_token", "eos_token"):
        for value in ("\x1b[31mred\n", "\ud800", "<not there>", {"content": "<not there>"}, "x" * 100_000):
            yield Case(f"{key}: {value!r:.30}", replaced(CONFIG, good | {key: value}))
        for value in (7, [], True, {"content": 7}, {}):
            yield Case(f"{key}: {value!r}", replaced(CONFIG, good | {key: value}), may_pass=value == {})
    for key in ("new", "model_max_length"):
        for value in (float("nan"), float("inf"), "\ud800", 10**400):
            yield Case(f"{key}: {value!r:.20}", replaced(CONFIG, good | {key: value}), may_pass=True)
    for value in (7, [7], [{"name": "default", "template": 7}], {"a": 1}, True):
        yield Case(f"chat_template: {value!r}", replaced(CONFIG, good | {"chat_template": value}))
    for name in ("generation_config.json", "config.json"):
        for value in (-1, 2**32, 2**64, 1.5, "257", [[257]], {}, True, [257] * 10**6, float("nan")):
            passes = isinstance(value, list) and value[0] == 257
            document = {"eos_token_id": value}
            yield Case(f"{name}: eos_token_id: {value!r:.20}", replaced(name, document), may_pass=passes)
    names = {CONFIG, "special_tokens_map.json", "generation_config.json", "config.json", "chat_template.json"}
    for name in sorted(names):
        for what, content in (RUBBISH | DEEP_JSON).items():
            yield Case(f"{name}: {what}", replaced(name, content))
    for what in ("UTF-16", "Latin-1"):
        yield Case(f"chat_template.jinja: {what}", replaced("chat_template.jinja", RUBBISH[what]))
    optional = {*names, "chat_template.jinja"}
    yield from not_files(seeds.hf(), dict.fromkeys(sorted(optional), True), lambda: convert("source"))
    listed = {
        "a gap": {"<x>": 10**6},
        "an id that is taken": {"<x>": 5},
        "an id of 2**64": {"<x>": 2**64},
        "an id that is a text": {"<x>": "\x1b[31m"},
        "an id that is a list": {"<x>": []},
        "infinity": {"<x>": float("inf")},
        "half a character": {"\ud800": 600},
    }
    for what, document in listed.items():
        yield Case(
            f"added_tokens.json: {what}", of_file("tokenizer.model", _sentencepiece(), {"added_tokens.json": document})
        )
    for decoder in ([], 7, {"600": 7}, {"600": {"content": 7}}, {"x": {"content": "<x>"}}, {"600": {}}):
        companions = {CONFIG: {"added_tokens_decoder": decoder}}
        yield Case(
            f"added_tokens_decoder: {decoder!r}",
            of_file("tokenizer.model", _sentencepiece(), companions),
            decoder == [],
        )


def _sentencepiece() -> bytes:
    return seeds.sentencepiece().read_bytes()


def _named_sentencepiece() -> Iterator[Case]:
    def changed(change: Callable[[ModelProto], object]) -> bytes:
        model = ModelProto.FromString(_sentencepiece())
        change(model)
        return model.SerializeToString()

    def set_piece(i: int, **values: object) -> Callable[[ModelProto], object]:
        return lambda model: [setattr(model.pieces[i], key, value) for key, value in values.items()]

    for name, change in {
        "no pieces": lambda model: model.ClearField("pieces"),
        "a piece twice": set_piece(300, piece="a"),
        "an empty piece": set_piece(300, piece=""),
        "a score that is no number": set_piece(300, score=float("nan")),
        "an infinite score": set_piece(300, score=float("inf")),
        "unused pieces": set_piece(300, type=5),
        "two unknown pieces": set_piece(300, type=2),
        "a byte that is none": set_piece(300, type=6),
        "a model of unigrams": lambda model: setattr(model.trainer_spec, "model_type", 1),
        "no byte fallback": lambda model: setattr(model.trainer_spec, "byte_fallback", False),
        "a map of characters that is rubbish": lambda model: setattr(
            model.normalizer_spec, "precompiled_charsmap", b"\xff" * 100
        ),
    }.items():
        yield Case(name, of_file("tokenizer.model", changed(change)))
    for name, content in RUBBISH.items():
        yield Case(name, of_file("tokenizer.model", content))
    for size in (1, 3, 4, 100, len(_sentencepiece()) - 1):
        yield Case(f"its first {size} bytes", of_file("tokenizer.model", _sentencepiece()[:size]))
    folder = seeds.sentencepiece().parent
    yield from not_files(folder, {"tokenizer.model": False}, lambda: convert("source/tokenizer.model"))
    for script in ("write_tokenizer_bin", "copy_tokenizer_model"):
        words = ["--source", "t", "--output", "out/x", "--log", "log"]
        yield Case(
            f"{script}: half a model",
            _with_script(script, _sentencepiece()[:5000], words),
            script == "copy_tokenizer_model",
        )
        yield Case(f"{script}: no model", _with_script(script, None, words))


def _with_script(script: str, content: bytes | None, words: list[str]) -> Callable[[], Call]:
    def prepare() -> Call:
        Path("t").mkdir()
        if content is not None:
            put(Path("t/tokenizer.model"), content)
        return Call(script, words, {})

    return prepare


def _named_tiktoken() -> Iterator[Case]:
    good = seeds.tiktoken().read_bytes()
    lines = good.splitlines()
    for name, changed in {
        "a rank twice": [*lines[:-1], lines[-1].split()[0] + b" 3"],
        "a token twice": [*lines, lines[0].split()[0] + b" %d" % len(lines)],
        "a gap": [*lines[:-1], lines[-1].split()[0] + b" 9999"],
        "a negative rank": [lines[0].split()[0] + b" -1", *lines[1:]],
        "a rank of 5000 digits": [*lines[:-1], lines[-1].split()[0] + b" " + b"9" * 5000],
        "an empty token": [*lines, b" %d" % len(lines)],
        "three words in a line": [*lines, b"YQ== 1 2"],
        "no base64": [*lines, b"\xff\xff %d" % len(lines)],
        "a byte left out": lines[1:],
    }.items():
        yield Case(name, of_file("tokenizer.model", b"\n".join(changed) + b"\n"))
    long = [*lines, b"YWFh" * 2_000_000 + b" %d" % len(lines)]
    yield Case("a token of 6 MB", of_file("tokenizer.model", b"\n".join(long) + b"\n"))


def _named_gguf() -> Iterator[Case]:
    entries, prefix = seeds.gguf_entries(), "tokenizer.ggml."
    values = {entry.key: entry for entry in entries}
    tokens = values[prefix + "tokens"].value[1]
    for key, kind, value in (
        *((f"{name}_token_id", *wrong) for name in ("bos", "eos", "unknown", "padding", "eot") for wrong in (
            (STRING, "256"), (ARRAY, (UINT32, [256])), (INT32, -1), (UINT32, 260), (UINT64, 2**63), (FLOAT32, 2.0),
            (FLOAT32, float("nan")), (BOOL, True),
        )),
        ("pre", ARRAY, (STRING, ["llama-bpe"])), ("pre", STRING, "\x1b[31m\n"), ("pre", UINT32, 7),
        ("model", STRING, "bert"), ("model", ARRAY, (STRING, ["gpt2"])), ("model", UINT32, 7),
        ("model", STRING, "llama"),
        ("tokens", ARRAY, (STRING, tokens[:-1])), ("tokens", ARRAY, (STRING, [tokens[0]] * len(tokens))),
        ("tokens", ARRAY, (UINT32, list(range(260)))), ("tokens", STRING, "a"),
        ("token_type", ARRAY, (INT32, [1] * 259)), ("token_type", ARRAY, (STRING, ["1"] * 260)),
        ("token_type", ARRAY, (INT32, [99] * 260)), ("token_type", UINT32, 1),
        ("token_type", ARRAY, (FLOAT32, [1.5] * 260)),
        ("merges", ARRAY, (STRING, ["ab"])), ("merges", ARRAY, (STRING, ["a \x1b"])),
        ("merges", ARRAY, (STRING, ["a b c"])),
        ("merges", ARRAY, (UINT32, [1])), ("merges", STRING, "a b"),
        ("add_bos_token", STRING, "false"), ("add_bos_token", ARRAY, (BOOL, [True])), ("add_bos_token", UINT32, 7),
    ):  # fmt: skip
        changed = [entry for entry in entries if entry.key != prefix + key] + [Entry(prefix + key, kind, value)]
        yield Case(
            f"{key} {kind} = {value!r:.40}", of_file("t.gguf", gguf(changed, [])), may_pass=kind == BOOL and key != "x"
        )
    for kind, value in ((UINT32, 7), (ARRAY, (STRING, ["a"]))):
        changed = [*entries, Entry("tokenizer.chat_template", kind, value)]
        yield Case(f"chat_template {kind} = {value!r}", of_file("t.gguf", gguf(changed, [])))


def _other_huggingface(random: Random) -> Case:
    if random.random() < 0.2:
        name, content = damaged((seeds.hf() / "tokenizer.json").read_bytes(), random)
        return Case(name, replaced("tokenizer.json", content), may_pass=True)
    name, content = mutated(_json("tokenizer.json"), random)
    return Case(name, replaced("tokenizer.json", content), may_pass=True)


def _other_companion(random: Random) -> Case:
    name, content = mutated(_json(CONFIG) | {"chat_template": seeds.TEMPLATE, "add_bos_token": True}, random)
    return Case(name, replaced(CONFIG, content), may_pass=True)


def _other_sentencepiece(random: Random) -> Case:
    name, content = damaged(_sentencepiece(), random)
    return Case(name, of_file("tokenizer.model", content), may_pass=True)


def _other_tiktoken(random: Random) -> Case:
    name, content = damaged(seeds.tiktoken().read_bytes(), random)
    return Case(name, of_file("tokenizer.model", content), may_pass=True)


def _other_gguf(random: Random) -> Case:
    name, content = damaged(gguf(seeds.gguf_entries(), []), random)
    return Case(name, of_file("t.gguf", content), may_pass=True)


SUBJECTS = {
    "tokenizer.json": Subject(_named_huggingface, _other_huggingface),
    "tokenizer_config.json": Subject(_named_companions, _other_companion),
    "sentencepiece": Subject(_named_sentencepiece, _other_sentencepiece),
    "tiktoken": Subject(_named_tiktoken, _other_tiktoken),
    "gguf tokenizer": Subject(_named_gguf, _other_gguf),
}
