"""Hugging Face folders: config.json, safetensors and the index of shards."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
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
    not_a_file,
    put,
    with_value,
    without,
)  # fmt: skip

SETTINGS = {"sha256": None, "params": None}
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def convert(source: str, **settings: object) -> Call:
    words = ["--source", source, "--output", "out/model.safetensors", "--log", "log"]
    return Call("convert_checkpoint", words, SETTINGS | settings)


def replaced(name: str, content: bytes | str | dict) -> Callable[[], Call]:
    """The Hugging Face folder with another file of this name."""

    def prepare() -> Call:
        put(links(seeds.hf(), Path("hf")) / name, content)
        return convert("hf")

    return prepare


def not_files(source: Path, names: dict[str, bool], call: Callable[[], Call]) -> Iterator[Case]:
    """What is no file in place of each of the files of a folder; `names` says of each whether it may be passed over."""
    for name, may_pass in names.items():
        for kind in not_a_file(Path("x")):
            yield Case(f"{kind} for {name}", not_file(source, name, kind, call), may_pass)


def not_file(source: Path, name: str, kind: str, call: Callable[[], Call]) -> Callable[[], Call]:
    def prepare() -> Call:
        path = links(source, Path("source")) / name
        path.unlink(missing_ok=True)
        not_a_file(path)[kind]()
        return call()

    return prepare


def good_config() -> dict:
    return json.loads((seeds.hf() / CONFIG).read_text())


def _named_config() -> Iterator[Case]:
    good = good_config()
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for key in (*sizes, "num_key_value_heads", "head_dim"):
        for value in (0, -1, 2.5, 10**400, 10**9, "8", True, [], float("nan"), float("inf")):
            yield Case(f"{key}: {value!r:.20}", replaced(CONFIG, good | {key: value}))
    for key in ("rms_norm_eps", "rope_theta"):
        for value in (0, -1, 10**400, "1", True, [], float("nan"), float("inf")):
            yield Case(f"{key}: {value!r:.20}", replaced(CONFIG, good | {key: value}))
    for value in ("false", "true", 1, 0, [], {}, "", 2.5):
        yield Case(f"tie_word_embeddings: {value!r}", replaced(CONFIG, good | {"tie_word_embeddings": value}))
    for key in ("attention_bias", "mlp_bias"):
        yield Case(f"{key}: 'false'", replaced(CONFIG, good | {key: "false"}))
    for key in (*sizes, "model_type"):
        yield Case(f"no {key}", replaced(CONFIG, without(good, (key,))))
    for value in ("mamba", None, [], {}, "\x1b[31mred\n", "x" * 100_000):
        yield Case(f"model_type: {value!r:.20}", replaced(CONFIG, good | {"model_type": value}))
    for value in ("\x1b[31mred\n", {"a": 1}):
        yield Case(f"an unknown key {value!r}", replaced(CONFIG, good | {f"new{value}": value}))
    yield from _named_rope(good)
    for name, content in (RUBBISH | DEEP_JSON).items():
        yield Case(name, replaced(CONFIG, content))
    yield Case("a number of 5000 digits", replaced(CONFIG, '{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}"))
    yield Case("a key twice", replaced(CONFIG, json.dumps(good)[:-1] + ', "vocab_size": 7}'))
    yield Case("100 MB of spaces", replaced(CONFIG, " " * 100_000_000))
    yield Case("a list of it", replaced(CONFIG, json.dumps([good])))
    yield from not_files(seeds.hf(), {CONFIG: False, WEIGHTS: False, INDEX: True}, lambda: convert("source"))


def _named_rope(good: dict) -> Iterator[Case]:
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3 |= {"original_max_position_embeddings": 64}
    wrong = {
        "low over high": llama3 | {"low_freq_factor": 4.0, "high_freq_factor": 1.0},
        "low as high": llama3 | {"low_freq_factor": 4.0},
        "a factor of 0": llama3 | {"factor": 0},
        "a factor of 10**400": llama3 | {"factor": 10**400},
        "a factor that is no number": llama3 | {"factor": float("nan")},
        "no factor": without(llama3, ("factor",)),
        "a text": "llama3",
        "a list": [llama3],
        "an unknown type": {"rope_type": "\x1b[31m", "factor": 2.0},
        "a type that is a list": {"rope_type": [], "factor": 2.0},
        "longrope of a wrong length": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
        "an unknown key": llama3 | {"x": 1},
    }
    for name, value in wrong.items():
        yield Case(f"rope_scaling: {name}", replaced(CONFIG, good | {"rope_scaling": value}))


def safetensors() -> tuple[dict, bytes]:
    data = (seeds.hf() / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def packed(header: dict | str, body: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + body


def _named_safetensors() -> Iterator[Case]:
    header, body = safetensors()
    name, norm = "model.embed_tokens.weight", "model.norm.weight"
    entry = header[name]
    start, end = entry["data_offsets"]
    for value in (
        [start, 10**400], [float("inf"), end], [start, float("nan")], [start, end, end], [start], [], {}, "ab", None,
        [float(start), float(end)], [str(start), str(end)], [True, end], [-4, end - start - 4], [end, start],
        [start + 4, end + 4], [0, 2**63], [start, 2**64],
    ):  # fmt: skip
        changed = with_value(header, (name, "data_offsets"), value)
        yield Case(f"data_offsets {value!r:.40}", replaced(WEIGHTS, packed(changed, body)))
    for value in (["F32"], None, "f32", "F64", "I8", "", {}, 7, "\x1b[31mred\n"):
        yield Case(f"dtype {value!r}", replaced(WEIGHTS, packed(with_value(header, (name, "dtype"), value), body)))
    for value in ([260.0, 32], [-260, -32], [10**400, 1], ["260", 32], [True, 8320], 8320, None, [[260, 32]], [0, 32],
                  [32, 260], [1] * 100_000, [2**32, 2**32]):  # fmt: skip
        yield Case(f"shape {value!r:.40}", replaced(WEIGHTS, packed(with_value(header, (name, "shape"), value), body)))
    for length in (0, 1, 2**63, 2**64 - 1, len(body) * 2, 99_999_999):
        yield Case(f"a header of {length} bytes", replaced(WEIGHTS, length.to_bytes(8, "little") + b"{}" + body))
    overlapping = with_value(header, (norm, "data_offsets"), [0, 4 * seeds.DIM])
    yield Case("tensors that overlap", replaced(WEIGHTS, packed(overlapping, body)))
    yield Case("bytes of no tensor", replaced(WEIGHTS, packed(header, body + bytes(64))))
    yield Case("a tensor left out", replaced(WEIGHTS, packed(without(header, (norm,)), body)))
    yield Case("a tensor without a shape", replaced(WEIGHTS, packed(without(header, (name, "shape")), body)))
    yield Case("an entry that is a list", replaced(WEIGHTS, packed(header | {name: [1]}, body)))
    yield Case("a header that is a list", replaced(WEIGHTS, packed("[]", body)))
    yield Case("a tensor twice", replaced(WEIGHTS, packed(json.dumps(header)[:-1] + f', "{norm}": {{}}}}', body)))
    for text in ("\x1b[31mred\n", "x" * 100_000, "\ud800", "\0"):
        yield Case(f"a surplus tensor {text!r:.20}", replaced(WEIGHTS, packed(header | {text: entry}, body)))
    for value in (float("nan"), float("inf"), 0.0, 3e38):
        filled = np.full(len(body) // 4, value, np.float32).tobytes()
        yield Case(f"all weights {value}", replaced(WEIGHTS, packed(header, filled)))
    for count in (0, 4, len(body) // 2, len(body) - 1):
        yield Case(f"{count} bytes of weights", replaced(WEIGHTS, packed(header, body[:count])))
    for name, content in RUBBISH.items():
        yield Case(name, replaced(WEIGHTS, content))
    for name, text in DEEP_JSON.items():
        yield Case(f"{name} as header", replaced(WEIGHTS, packed(text, body)))
    yield from _named_index(header, body)


def _named_index(header: dict, body: bytes) -> Iterator[Case]:
    names = [name for name in header if name != "__metadata__"]
    whole = dict.fromkeys(names, WEIGHTS)
    for what, content in {
        "climbs": {"weight_map": whole | {names[0]: "../../outside/kept"}},
        "names an absolute path": {"weight_map": whole | {names[0]: "/dev/zero"}},
        "names NUL": {"weight_map": whole | {names[0]: "a\0b"}},
        "names ANSI": {"weight_map": whole | {names[0]: "\x1b[31mred\n"}},
        "names 5000 letters": {"weight_map": whole | {names[0]: "x" * 5000}},
        "names nothing": {"weight_map": whole | {names[0]: ""}},
        "names itself": {"weight_map": whole | {names[0]: INDEX}},
        "names a number": {"weight_map": whole | {names[0]: 7}},
        "has a list": {"weight_map": names},
        "has no map": {},
        "is empty": {"weight_map": {}},
        **RUBBISH,
        **DEEP_JSON,
    }.items():
        yield Case(f"an index that {what}", replaced(INDEX, content))


def _other_config(random: Random) -> Case:
    if random.random() < 0.2:
        name, content = damaged((seeds.hf() / CONFIG).read_bytes(), random)
    else:
        name, content = mutated(good_config(), random)
    return Case(name, replaced(CONFIG, content), may_pass=True)


def _other_safetensors(random: Random) -> Case:
    header, body = safetensors()
    if random.random() < 0.5:
        name, changed = mutated(header, random)
        return Case(name, replaced(WEIGHTS, packed(changed, body)), may_pass=True)
    data = packed(header, body)
    name, content = damaged(data, random, head=len(data) - len(body))
    return Case(name, replaced(WEIGHTS, content), may_pass=True)


SUBJECTS = {
    "hf config.json": Subject(_named_config, _other_config),
    "safetensors": Subject(_named_safetensors, _other_safetensors),
}
