"""Meta's folders: params.json and pickled weights."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import seeds
from case import DEEP_JSON, RUBBISH, Call, Case, Subject, damaged, links, mutated, put
from cases_checkpoint import convert, not_files

PARAMS = {
    "dim": seeds.DIM, "n_layers": seeds.LAYERS, "n_heads": seeds.HEADS, "n_kv_heads": seeds.KV_HEADS,
    "vocab_size": seeds.VOCABULARY, "norm_eps": 1e-5, "rope_theta": 10000.0,
}  # fmt: skip


class _Runs:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ../../../outside/ran",)


def _meta(params: object = PARAMS, weights: bytes | None = None) -> Callable[[], Call]:
    def prepare() -> Call:
        folder = links(seeds.torch_folder("meta"), Path("meta"))
        put(folder / "params.json", params)
        if weights is not None:
            put(folder / "consolidated.00.pth", weights)
        return convert("meta")

    return prepare


def _saved(content: object) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _state() -> dict:
    import torch

    return torch.load(seeds.torch_folder("meta") / "consolidated.00.pth", weights_only=True)


def _named_params() -> Iterator[Case]:
    yield Case("nothing wrong", _meta(), may_pass=True)
    for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size"):
        for value in (0, -2, 2.5, 10**400, "8", True, [], float("nan")):
            yield Case(f"{key}: {value!r:.20}", _meta(PARAMS | {key: value}))
    for key in ("norm_eps", "rope_theta", "multiple_of", "ffn_dim_multiplier"):
        for value in (0, -1, 10**400, "1", True, [], float("nan"), float("inf")):
            changed = PARAMS | {"multiple_of": 32, "ffn_dim_multiplier": 1.0} | {key: value}
            unset = (key, value) == ("multiple_of", -1)  # as Meta writes it
            yield Case(f"{key}: {value!r:.20}", _meta(changed), may_pass=unset)
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    for key, value in (
        ("my_rope_scaling", scaling), ("rope_scaling", scaling | {"low_freq_factor": 9.0}), ("rope_scaling", "llama3"),
        ("rope_scaling", [scaling]), ("use_scaled_rope", True), ("use_scaled_rope", "false"),
        ("rope_scaling_factor", 8), ("n_experts", 8), ("new\x1b[31m", 1),
    ):  # fmt: skip
        yield Case(f"{key}: {value!r:.30}", _meta(PARAMS | {key: value}))
    for name, content in (RUBBISH | DEEP_JSON).items():
        yield Case(f"params.json: {name}", _meta(content))


def _named_pickles() -> Iterator[Case]:
    import torch

    state = _state()
    name = "norm.weight"
    contents = {
        "code": {**state, "x": _Runs()},
        "a list": list(state.values()),
        "a text": "x",
        "an integer for a tensor": {**state, name: 7},
        "a sparse tensor": {**state, name: torch.ones(seeds.DIM).to_sparse()},
        "a tensor of integers": {**state, name: torch.ones(seeds.DIM, dtype=torch.int32)},
        "a complex tensor": {**state, name: torch.ones(seeds.DIM, dtype=torch.complex64)},
        "a quantised tensor": {**state, name: torch.quantize_per_tensor(torch.ones(seeds.DIM), 0.1, 0, torch.qint8)},
        "a tensor on the meta device": {**state, name: torch.ones(seeds.DIM, device="meta")},
        "a transposed matrix": {**state, "tok_embeddings.weight": torch.ones(seeds.DIM, seeds.VOCABULARY).T},
        "an expanded tensor": {**state, name: torch.ones(1).expand(seeds.DIM)},
        "a name that is a number": {**state, 7: torch.ones(1)},
        "a surplus name with ANSI": {**state, "\x1b[31mred\n": torch.ones(1)},
        "NaN": {**state, name: torch.full((seeds.DIM,), float("nan"))},
        "no tensor": {},
    }
    for what, content in contents.items():
        yield Case(what, _meta(weights=_saved(content)))
    good = _saved(state)
    yield Case("a bare pickle of code", _meta(weights=pickle.dumps(_Runs())))
    yield Case("a deep pickle", _meta(weights=b"(" * 10**6 + b"."))
    yield Case("a pickle that repeats itself", _meta(weights=_zip({"x/data.pkl": b"\x80\x02" + b"]" * 10**6 + b"."})))
    yield Case("a zip file of nothing", _meta(weights=_zip({})))
    yield Case("a zip file that climbs", _meta(weights=_zip({"../../../outside/x": b"x", "x/data.pkl": b"N."})))
    for size in (0, 1, 100, len(good) // 2, len(good) - 1):
        yield Case(f"its first {size} bytes", _meta(weights=good[:size]))
    for what, content in RUBBISH.items():
        yield Case(what, _meta(weights=content))
    names = {"consolidated.00.pth": False}
    yield from not_files(seeds.torch_folder("meta"), names, lambda: convert("source"))


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _other_params(random: Random) -> Case:
    name, content = mutated(PARAMS | {"multiple_of": 32, "use_scaled_rope": False}, random)
    return Case(name, _meta(content), may_pass=True)


def _other_pickle(random: Random) -> Case:
    name, content = damaged((seeds.torch_folder("meta") / "consolidated.00.pth").read_bytes(), random, head=3000)
    return Case(name, _meta(weights=content), may_pass=True)


SUBJECTS = {
    "params.json": Subject(_named_params, _other_params, needs_torch=True),
    "pickles": Subject(_named_pickles, _other_pickle, needs_torch=True),
}
