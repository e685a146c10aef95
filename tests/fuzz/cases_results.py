"""Results that reports and gates are made of."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from case import DEEP_JSON, RUBBISH, Call, Case, Subject, damaged, mutated, not_a_file, put, with_value, without

PLACE = ["a", "r", 256, "SM8650-emulator", "emulator", "kv"]
FOLDER = "artifacts/a/r/ctx256/SM8650-emulator/emulator/kv"
METRICS = {"mine": {"word_perplexity": 20.0, "byte_perplexity": 2.0, "bits_per_byte": 1.0}}
COMMON = {"tasks": METRICS, "tokens": 100, "limit": None, "num_fewshot": None}
DISTANCE = {"perplexity_ratio": {"mine": 1.1}, "sqnr_db": 20.0, "kl_divergence": 0.1, "top1_agreement": 0.9}
FP = COMMON | {"phase": "fp", "context_len": 256}
QDQ = COMMON | DISTANCE | {"phase": "qdq", "recipe": "r", "context_len": 256, "worst_layers": [1, 0]}
QDQ |= {"layers": [{"layer": 0, "sqnr_db": 30.5}, {"layer": 1, "sqnr_db": None}]}
DEVICE = COMMON | DISTANCE | {"phase": "device", "top1_agreement_qdq": 0.95, "graph": "prefill", "device": "emulator"}
RESULT = {
    "model": "a",
    "recipe": "r",
    "target": "SM8650-emulator",
    "mode": "kv",
    "device": "emulator",
    "prompts": [{"prompt": "Once", "text": "upon", "ttft_ms": 12.5, "decode_tokens_per_s": None}],
    "repeats": {"prompts": [{"ttft_ms": {"median": 12.5, "spread": 1.5, "samples": [12.0, 13.5]}}]},
}
FILES = {
    "artifacts/a/evaluation/ctx256/fp.json": FP,
    "artifacts/a/r/evaluation/ctx256/qdq.json": QDQ,
    f"{FOLDER}/evaluation.json": DEVICE,
    f"{FOLDER}/result.json": RESULT,
}
QDQ_FILE = "artifacts/a/r/evaluation/ctx256/qdq.json"


def read(command: str, name: str, content: bytes | str | dict | None) -> Callable[[], Call]:
    """The command on good results, with another file of this name."""

    def prepare() -> Call:
        for file, document in FILES.items():
            put(Path(file), document)
        if content is not None:
            put(Path(name), content)
        return _call(command)

    return prepare


def _call(command: str) -> Call:
    if command == "check_gates":
        words = ["--figures", QDQ_FILE, "--output", "out/gates.json", "--log", "log"]
        return Call(command, words, {"model": "a", "max_perplexity_ratio": 1.5, "min_sqnr_db": 10})
    settings = {"artifacts": "artifacts", "evaluations": [[*PLACE, ["fp", "qdq"]]], "runs": [PLACE]}
    settings["programs"] = [[*PLACE[:4], PLACE[5]]]
    return Call(command, ["--output", "out/report", "--log", "log"], settings)


def _named() -> Iterator[Case]:
    for command, files in {
        "check_gates": [QDQ_FILE],
        "write_summary": list(FILES)[:3],
        "write_report": list(FILES),
    }.items():
        yield Case(f"{command}: nothing wrong", read(command, "", None), may_pass=True)
        for file in files:
            rubbish = RUBBISH | DEEP_JSON if command == "check_gates" else {"Latin-1": RUBBISH["Latin-1"], **DEEP_JSON}
            for name, content in (rubbish | {"a list": "[]"}).items():
                yield Case(f"{command}: {Path(file).name}: {name}", read(command, file, content))
            for kind in ("a FIFO", "a folder", "64 MB of zeros"):
                yield Case(f"{command}: {Path(file).name}: {kind}", _not_file(command, file, kind))
    for key in ("perplexity_ratio", "sqnr_db", "tasks"):
        yield Case(f"check_gates: no {key}", read("check_gates", QDQ_FILE, without(QDQ, (key,))), key == "tasks")
        for value in (7.5, "x", [], None, True):
            passes = key == "tasks" or (key, value) == ("sqnr_db", 7.5)
            yield Case(f"check_gates: {key}: {value!r}", read("check_gates", QDQ_FILE, QDQ | {key: value}), passes)
    for value in ("x", [], True, float("nan"), float("inf"), 10**400, -1):
        changed = with_value(QDQ, ("perplexity_ratio", "mine"), value)
        yield Case(f"check_gates: a ratio of {value!r:.20}", read("check_gates", QDQ_FILE, changed))


def _not_file(command: str, file: str, kind: str) -> Callable[[], Call]:
    def prepare() -> Call:
        call = read(command, file, None)()
        Path(file).unlink()
        not_a_file(Path(file))[kind]()
        return call

    return prepare


def _other(random: Random) -> Case:
    command = random.choice(("check_gates", "write_summary", "write_report"))
    file = QDQ_FILE if command == "check_gates" else random.choice(list(FILES))
    if random.random() < 0.2:
        name, content = damaged(json.dumps(FILES[file]).encode(), random)
    else:
        name, content = mutated(FILES[file], random)
    return Case(f"{command}: {Path(file).name}: {name}", read(command, file, content), may_pass=True)


SUBJECTS = {"results": Subject(_named, _other)}
