"""Artifacts that torch or executorch reads: tokens.json, quant_attrs.json and programs."""

import copy
import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import children
import seeds
from case import (
    DEEP_JSON,
    RUBBISH,
    Call,
    Case,
    Subject,
    damaged,
    mutated,
    not_a_file,
    put,
    with_value,
    without,
)  # fmt: skip
from tiny_model import EMULATOR, PROGRAM_SETTINGS, RECIPE

NAMES = {"model": "tiny", "recipe": "16a8w", "recipe_spec": RECIPE}
RUN = {
    "model": "tiny", "recipe": "16a8w", "target": EMULATOR, "mode": "kv", "prompts": ["Once"], "system_prompt": "",
    "temperature": 0, "seq_len": 8, "repeats": 1, "warmup": 0,
}  # fmt: skip
DEVICES = "devices: {emulator: {kind: emulator, soc: SM8650}}\n"


def _with_manifest(path: Path, manifest: Path) -> Path:
    """The file, with a manifest that agrees, so that what it says is looked at."""
    document = json.loads(manifest.read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    put(path.with_name(f"{path.name}.manifest.json"), document | {"sha256": digest})
    return path


def _quantize(content: bytes | str | dict | list) -> Callable[[], Call]:
    def prepare() -> Call:
        import hexport.quantization.calibration as calibration

        calibration.calibrate = lambda *arguments: sys.exit(0)  # what it gets was accepted
        tokens, checkpoint = str(put(Path("tokens.json"), content)), str(seeds.tiny().checkpoint)
        words = ["--checkpoint", checkpoint, "--tokens", tokens, "--output", "out/16a8w/quant_attrs.json"]
        return Call("calibrate", [*words, "--log", "log"], NAMES)

    return prepare


def _tokens() -> dict:
    return json.loads(seeds.tiny().tokens.read_text())


def _named_tokens() -> Iterator[Case]:
    good = _tokens()
    for key in ("samples", "tokens", "source"):
        yield Case(f"no {key}", _quantize(without(good, (key,))))
    for value in (
        [], [[]], [[-1]], [[10**9]], [[2**64]], [[1.5]], [["a"]], [[True]], [[None]], [[[1]]], {}, "x", None, [1, 2],
        [[1] * 10**6],
    ):  # fmt: skip
        yield Case(f"samples: {value!r:.20}", _quantize(good | {"samples": value}))
    for name, content in (RUBBISH | DEEP_JSON | {"a list": []}).items():
        yield Case(name, _quantize(content))


def _compile(content: bytes | str | dict) -> Callable[[], Call]:
    def prepare() -> Call:
        import hexport.lowering.lower as lowering

        lowering.compile_shard = lambda *arguments: sys.exit(0)  # what it gets was accepted
        manifest = seeds.tiny().quant_attrs.with_name("quant_attrs.json.manifest.json")
        attrs = _with_manifest(put(Path("16a8w/quant_attrs.json"), content), manifest)
        words = ["--checkpoint", str(seeds.tiny().checkpoint), "--quant-attrs", str(attrs)]
        words += ["--shard", "1", "--templates", str(seeds.tiny().templates), "--output", "out/kv.bin", "--log", "log"]
        return Call("compile_shard", words, PROGRAM_SETTINGS)

    return prepare


def _attrs() -> dict:
    return json.loads(seeds.tiny().quant_attrs.read_text())


def _named_quant_attrs() -> Iterator[Case]:
    good = _attrs()
    yield Case("nothing wrong", _compile(good), may_pass=True)
    for key in good:
        yield Case(f"no {key}", _compile(without(good, (key,))))
        for value in (None, 7, "x", [], {}, True):
            passes = type(value) is type(good[key]) and key in ("model", "recipe", "calibration")
            yield Case(f"{key}: {value!r}", _compile(good | {key: value}), may_pass=passes)
    point = next(name for name in good["activations"] if name.startswith("layers.0."))
    places = {
        "logits": ("logits",),
        "the mask": ("mask",),
        "a cache": ("kv", 0, "k"),
        "a point": ("activations", point),
    }
    for what, path in places.items():
        for key, value in (
            ("scale", 0), ("scale", -1), ("scale", float("nan")), ("scale", float("inf")), ("scale", "1"),
            ("scale", 10**400), ("scale", True), ("zero_point", -1), ("zero_point", 1.5), ("zero_point", 2**40),
            ("qmin", 7), ("qmax", 0), ("qmax", 2**40), ("bits", 3), ("bits", "8"),
        ):  # fmt: skip
            yield Case(f"{key} of {what}: {value!r:.20}", _compile(with_value(good, (*path, key), value)))
        yield Case(f"no {what}", _compile(without(good, path)))
        yield Case(f"no scale of {what}", _compile(without(good, (*path, "scale"))))
    for what, change in {
        "logits scale 123 alone": lambda attrs: attrs["logits"].update(scale=123.0),
        "top-level scale alone": lambda attrs: attrs.update(scale=123.0),
        "8-bit caches in a recipe of 16 bits": lambda attrs: [
            entry.update(qmin=0, qmax=255, zero_point=128, bits=8) for layer in attrs["kv"] for entry in layer.values()
        ],
        "one layer more": lambda attrs: attrs["kv"].append(attrs["kv"][0]),
        "another checkpoint": lambda attrs: attrs.update(checkpoint_sha256="0" * 64),
        "a surplus key": lambda attrs: attrs.update(surplus=1),
        "a surplus layer's point": lambda attrs: attrs["activations"].update(
            {"layers.9" + point[8:]: attrs["activations"][point]}
        ),
    }.items():
        changed = copy.deepcopy(good)
        change(changed)
        yield Case(what, _compile(changed))
    for name, content in (RUBBISH | DEEP_JSON).items():
        yield Case(name, _compile(content))


def _program() -> bytes:
    return seeds.tiny().program.read_bytes()


def _inspect(content: bytes) -> Callable[[], Call]:
    def prepare() -> Call:
        children.fork_them()
        return Call("inspect_pte", [str(put(Path("kv.pte"), content))])

    return prepare


def _run(content: bytes) -> Callable[[], Call]:
    """A ready program, without a manifest."""

    def prepare() -> Call:
        children.fork_them()
        put(Path("devices.yaml"), DEVICES)
        words = ["--devices", "devices.yaml", "--device", "emulator", "--program", str(put(Path("kv.pte"), content))]
        words += ["--tokenizer", str(seeds.tiny().tokenizer), "--output", "out/result.json"]
        return Call("run_program", [*words, "--log", "log"], RUN)

    return prepare


def _named_programs() -> Iterator[Case]:
    good = _program()
    yield Case("inspect: nothing wrong", _inspect(good), may_pass=True)
    size_at = 8 + 8  # of the extended header: magic, its own length, program_size, segment_base_offset
    half = len(good) // 2
    for what, content in {
        "a huge program_size": good[:size_at] + struct.pack("<Q", 2**62) + good[size_at + 8 :],
        "a program_size of 0": good[:size_at] + bytes(8) + good[size_at + 8 :],
        "a huge segment_base_offset": good[: size_at + 8] + struct.pack("<Q", 2**62) + good[size_at + 16 :],
        "swapped halves": good[half:] + good[:half],
        "its head alone": good[:64],
        "its first half": good[:half],
        "its root at the end": struct.pack("<I", len(good)) + good[4:],
        "its root at 2**32": b"\xff" * 4 + good[4:],
        "random bytes": good[:8] + Random(0).randbytes(len(good) - 8),
        "a second half of random bytes": good[:half] + Random(0).randbytes(len(good) - half),
        "zeros behind its head": good[:64] + bytes(len(good) - 64),
    }.items():
        telling = not what.startswith(("a second half", "a program_size"))
        yield Case(f"inspect: {what}", _inspect(content), may_pass=not telling)
        yield Case(f"run: {what}", _run(content), may_pass=not telling)
    for what, content in RUBBISH.items():
        yield Case(f"inspect: {what}", _inspect(content))
    for kind in not_a_file(Path("x")):
        yield Case(f"inspect: {kind}", _no_program(kind))


def _no_program(kind: str) -> Callable[[], Call]:
    def prepare() -> Call:
        children.fork_them()
        not_a_file(Path("kv.pte"))[kind]()
        return Call("inspect_pte", ["kv.pte"])

    return prepare


def _other_tokens(random: Random) -> Case:
    name, content = mutated(_tokens(), random)
    return Case(name, _quantize(content), may_pass=True)


def _other_quant_attrs(random: Random) -> Case:
    name, content = mutated(_attrs(), random)
    return Case(name, _compile(content), may_pass=True)


def _other_program(random: Random) -> Case:
    name, content = damaged(_program(), random, head=5000)
    kind = _run if random.random() < 0.2 else _inspect
    return Case(f"{kind.__name__[1:]}: {name}", kind(content), may_pass=True)


SUBJECTS = {
    "tokens.json": Subject(_named_tokens, _other_tokens, needs_torch=True),
    "quant_attrs.json": Subject(_named_quant_attrs, _other_quant_attrs, needs_torch=True),
    "programs": Subject(_named_programs, _other_program, needs_torch=True),
}
