"""Checkpoints in one binary file: llama2.c's .bin and GGUF."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import seeds
from case import DEEP_JSON, RUBBISH, Call, Case, Subject, damaged, not_a_file, put
from cases_checkpoint import convert, not_file
from gguf_bytes import (
    ARRAY,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    Q4_0,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    Entry,
    gguf,
)  # fmt: skip


def _named_llama2c() -> Iterator[Case]:
    good = seeds.llama2c_bytes()
    fields = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
    for i, field in enumerate(fields):
        for value in (0, -1, 2**31 - 1, -(2**31), 7):
            changed = good[: 4 * i] + struct.pack("<i", value) + good[4 * i + 4 :]
            yield Case(f"{field}: {value}", _bin(changed), may_pass=field == "max_seq_len")
    for size in (0, 1, 28, 255, 256, len(good) - 4, len(good) - 1):
        yield Case(f"its first {size} bytes", _bin(good[:size]))
    yield Case("4 bytes more", _bin(good + bytes(4)))
    for version in (0, 2, 3, -1):
        yield Case(f"version {version}", _bin(struct.pack("<Ii", 0x616B3432, version) + good))
    for value in (float("nan"), float("inf"), 0.0, 3e38):
        yield Case(f"all weights {value}", _bin(good[:28] + np.full(len(good) // 4 - 7, value, np.float32).tobytes()))
    for name, content in RUBBISH.items():
        yield Case(name, _bin(content))
    for name, content in ({"a params.json that contradicts": {"dim": 64}} | RUBBISH | DEEP_JSON).items():
        yield Case(f"params: {name}", _bin(good, content))
    for kind in not_a_file(Path("x")):
        yield Case(kind, not_file(seeds.llama2c().parent, "model.bin", kind, lambda: convert("source/model.bin")))


def _bin(content: bytes, params: bytes | str | dict | None = None) -> Callable[[], Call]:
    def prepare() -> Call:
        put(Path("model.bin"), content)
        if params is None:
            return convert("model.bin")
        return convert("model.bin", params=str(put(Path("params.json"), params)))

    return prepare


def _named_gguf() -> Iterator[Case]:
    entries, tensors = seeds.gguf_entries(), seeds.gguf_tensors()
    by_key = {entry.key: i for i, entry in enumerate(entries)}

    def with_entry(key: str, kind: int, value: object) -> bytes:
        changed = list(entries)
        if key in by_key:
            changed[by_key[key]] = Entry(key, kind, value)
        else:
            changed.append(Entry(key, kind, value))
        return gguf(changed, tensors)

    for key, kind, value in (
        *(("llama.block_count", UINT32, n) for n in (0, 1, 3, 10**7, 2**32 - 1)), ("llama.block_count", UINT64, 2**63),
        ("llama.block_count", FLOAT32, 2.5), ("llama.block_count", FLOAT32, float("nan")),
        ("llama.block_count", INT32, -2), ("llama.block_count", STRING, "2"), ("llama.block_count", BOOL, True),
        ("llama.block_count", ARRAY, (UINT32, [2, 2])), ("llama.embedding_length", UINT64, 2**62),
        ("llama.embedding_length", INT64, -1), ("llama.attention.head_count", UINT32, 0),
        ("llama.attention.head_count", ARRAY, (UINT32, [4, 4])), ("llama.attention.head_count_kv", UINT32, 0),
        ("llama.attention.head_count_kv", UINT32, 3), ("llama.rope.freq_base", FLOAT32, float("inf")),
        ("llama.rope.freq_base", FLOAT64, 0.0), ("llama.rope.freq_base", STRING, "1e4"),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, float("nan")), ("llama.vocab_size", UINT32, 2**32 - 1),
        ("general.architecture", STRING, "\x1b[31mred\n"),
        ("general.architecture", STRING, b"\4" + bytes(7) + b"\xff" * 4),
        ("general.architecture", UINT32, 7), ("general.architecture", ARRAY, (STRING, ["llama"])),
        ("general.alignment", UINT32, 0), ("general.alignment", UINT32, 7), ("general.alignment", STRING, "32"),
        ("general.alignment", UINT32, 2**31), ("llama.expert_count", UINT32, 8), ("llama.\x1b[31m", UINT32, 8),
        ("llama.rope.scaling.type", STRING, "yarn"), ("llama.rope.scaling.type", UINT32, 7),
        ("split.count", UINT32, 2), ("split.count", STRING, "2"), ("split.count", ARRAY, (UINT32, [2])),
        ("llama.context_length", ARRAY, (99, b"")), ("llama.context_length", 99, b""),
        ("llama.context_length", ARRAY, struct.pack("<IQ", STRING, 2**62)),
        ("llama.context_length", ARRAY, struct.pack("<IQ", UINT8, 2**62)),
        ("llama.context_length", STRING, struct.pack("<Q", 2**63)),
        ("llama.context_length", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000),
    ):  # fmt: skip
        yield Case(f"{key} {kind} = {value!r:.40}", _gguf(with_entry(key, kind, value)))
    for count in (0, 1, len(tensors) + 1, 10**7, 2**32, 2**63, 2**64 - 1):
        yield Case(f"{count} tensors by its header", _gguf(gguf(entries, tensors, n_tensors=count)))
    for count in (0, 1, len(entries) + 1, 10**7, 2**32, 2**63, 2**64 - 1):
        yield Case(f"{count} keys by its header", _gguf(gguf(entries, tensors, n_entries=count)))
    for version in (0, 1, 4, 2**31):
        yield Case(f"version {version}", _gguf(gguf(entries, tensors, version=version)))
    for what, change in {
        "offset 2**64 - 32, which wraps": {"offset": 2**64 - 32},
        "offset 2**63": {"offset": 2**63},
        "offset 1": {"offset": 1},
        "the offset of another": {"offset": 0},
        "type 99": {"kind": 99},
        "type Q4_0, which is shorter": {"kind": Q4_0},
        "no dimensions": {"shape": ()},
        "9 dimensions": {"shape": (1,) * 9},
        "a size of 2**62": {"shape": (2**62, 32)},
        "sizes whose product wraps": {"shape": (2**33, 2**31)},
        "size 0": {"shape": (0, 32)},
        "another name": {"name": "blk.0.\x1b[31m.weight"},
        "a name of 100,000 letters": {"name": "x" * 100_000},
        "a name that another has": {"name": "token_embd.weight"},
    }.items():
        changed = [*tensors[:-1], tensors[-1]._replace(**change)]
        changed[3] = tensors[3]._replace(**change)
        yield Case(f"a tensor with {what}", _gguf(gguf(entries, changed)))
    for value in (float("nan"), float("inf"), 0.0, 3e38):
        filled = [tensor._replace(values=np.full(tensor.shape, value, np.float32)) for tensor in tensors]
        yield Case(f"all weights {value}", _gguf(gguf(entries, filled)))
    good = gguf(entries, tensors)
    for size in (0, 3, 4, 8, 23, 24, 100, 5000, len(good) - 1):
        yield Case(f"its first {size} bytes", _gguf(good[:size]))
    yield Case("big-endian", _gguf(b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + good))
    for name, content in RUBBISH.items():
        yield Case(name, _gguf(content))
    for kind in not_a_file(Path("x")):
        yield Case(kind, not_file(seeds.gguf_file().parent, "model.gguf", kind, lambda: convert("source/model.gguf")))


def _gguf(content: bytes) -> Callable[[], Call]:
    return lambda: convert(str(put(Path("model.gguf"), content)))


def _other_llama2c(random: Random) -> Case:
    name, content = damaged(seeds.llama2c_bytes(), random, head=32)
    return Case(name, _bin(content), may_pass=True)


def _other_gguf(random: Random) -> Case:
    data = seeds.gguf_file().read_bytes()
    name, content = damaged(data, random, head=9000)
    return Case(name, _gguf(content), may_pass=True)


SUBJECTS = {
    "llama2.c": Subject(_named_llama2c, _other_llama2c),
    "gguf": Subject(_named_gguf, _other_gguf),
}
