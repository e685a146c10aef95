"""Checkpoints made to hang, to fill the memory or to be taken for what they are not: one line each."""

import json
import math
import os
import socket
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import convert_checkpoint
from hexport.checkpoints.torch_file import TRIED_WITH, checkpoint_offset
from hexport.errors import HexportError
from hexport.json_file import MAX_BYTES, parse_json, read_json
from hexport.regular_file import read_bytes, regular_file

SETTINGS = {"sha256": None, "params": None}
NORM, QUERY = "model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tiny_llama, tmp_path):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def error(script_error, output):
    def of(source) -> str:
        return script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)

    return of


TEXTS = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and whole": b"[" * 66 + b"]" * 66,
    "NaN": b'{"a": NaN}',
    "infinity": b"[-Infinity]",
    "beyond float64": b"[1e999]",
    "an integer beyond float64": b"[1%s]" % (b"0" * 400),
    "an integer that Python refuses": b"[1%s]" % (b"0" * 5000),
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice, deep inside": b'[{"b": {"a": 1, "a": 2}}]',
    "half a pair": b'["\\ud800"]',
    "half a pair as a key": b'{"\\uDC00": 1}',
    "not UTF-8": b'["\xff"]',
    "two values": b"[] []",
    "nothing": b"",
}


@pytest.mark.parametrize("text", TEXTS)
def test_json_is_read_strictly(text):
    with pytest.raises(HexportError, match=r"^x\.json: ") as failure:
        parse_json(TEXTS[text], "x.json")
    assert len(str(failure.value)) < 300
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"model_max_length": 1000000000000000019884624838656, "b": [1.5, -2, true, null, "\\ud83d\\ude00"]}',
        b"[" * 60 + b"]" * 60,
    ],
)
def test_json_that_is_published_is_read(text):
    assert parse_json(text, "x.json") == json.loads(text)


def test_a_json_file_has_a_limit_of_size(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": "' + b"a" * MAX_BYTES + b'"}')
    with pytest.raises(HexportError, match="more than the limit of 16 MB"):
        read_json(path)


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path / "link", "/dev/zero"):
        with pytest.raises(HexportError, match="is a pipe, a socket or a device"):
            regular_file(type(tmp_path)(path))
    for name, part in {
        "no": "no such file",
        "": "is a folder",
        "a\0b": "cannot be read",
        "a" * 5000: "cannot be",
    }.items():
        with pytest.raises(HexportError, match=part):
            read_bytes(tmp_path / name, 10)
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "good").symlink_to("file")
    assert read_bytes(tmp_path / "good", 3) == b"abc"


@pytest.mark.parametrize("name", ["model.gguf", "stories.bin", "stories.pt"])
def test_a_pipe_as_a_checkpoint_is_one_line(error, tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "is a pipe" in error(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "extra.safetensors"])
def test_a_pipe_in_a_folder_is_one_line(error, folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert "is a pipe" in error(folder)


def with_header(folder, change, **entries) -> None:
    """Rewrite the header of model.safetensors: `change` gets it, as a dictionary."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = change(header) or json.dumps(header)
    text = text.encode() if isinstance(text, str) else text
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


HEADERS = {
    "infinite offset": lambda h: h[NORM].update(data_offsets=[0, math.inf]),
    "three offsets": lambda h: h[NORM]["data_offsets"].append(7),
    "float offsets": lambda h: h[NORM].update(data_offsets=[float(n) for n in h[NORM]["data_offsets"]]),
    "negative offset": lambda h: h[NORM].update(data_offsets=[-4, 380]),
    "huge offset": lambda h: h[NORM].update(data_offsets=[2**64, 2**64 + 384]),
    "type as a list": lambda h: h[NORM].update(dtype=["F32"]),
    "no type": lambda h: h[NORM].pop("dtype") and None,
    "shape as a text": lambda h: h[NORM].update(shape="96"),
    "float shape": lambda h: h[NORM].update(shape=[96.0]),
    "negative shape": lambda h: h[NORM].update(shape=[-96]),
    "shape that wraps": lambda h: h[NORM].update(shape=[2**32, 2**32, 6]),
    "overlap": lambda h: h[NORM].update(data_offsets=h["model.norm.weight"]["data_offsets"]),
    "gap": lambda h: h.pop(NORM) and None,
    "entry as a list": lambda h: h.update({NORM: []}),
    "a name twice": lambda h: json.dumps(h)[:-1] + f', "{NORM}": {json.dumps(h[NORM])}}}',
    "deep": lambda h: "[" * 100_000,
    "a list": lambda h: "[]",
    "no JSON": lambda h: b"\xff\xfe",
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_safetensors_header_that_is_wrong_is_one_line(error, folder, fault):
    with_header(folder, HEADERS[fault])
    assert "model.safetensors: " in error(folder)


def test_a_safetensors_header_has_a_limit(error, folder):
    text = b" " * (MAX_BYTES + 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert "not a whole safetensors file" in error(folder)


WEIGHTS = {
    "zeros": ({QUERY: torch.zeros(192, 96)}, [QUERY, "is all zeros"]),
    "zeros with a minus": ({QUERY: -torch.zeros(192, 96)}, [QUERY, "is all zeros"]),
    "embedding of zeros": ({"model.embed_tokens.weight": torch.zeros(160, 96)}, ["embed_tokens", "is all zeros"]),
    "huge": ({NORM: torch.full((96,), 3e38)}, [NORM, "holds a value of 3e+38, beyond the 65504 of half precision"]),
    "one huge": ({QUERY: torch.ones(192, 96).index_fill_(0, torch.tensor([7]), -1e6)}, [QUERY, "a value of 1e+06"]),
    "huge bfloat16": ({NORM: torch.full((96,), -3e38, dtype=torch.bfloat16)}, [NORM, "a value of 3e+38"]),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_no_model_has_are_named(error, folder, fault):
    changes, parts = WEIGHTS[fault]
    save_file({**load_file(folder / "model.safetensors"), **changes}, folder / "model.safetensors", {"format": "pt"})
    line = error(folder)
    assert all(part in line for part in parts), line


def test_weights_that_some_models_have_are_kept(run_script, folder, output):
    """Biases and norms of zeros, rows of tokens that were never trained, and the largest values of half precision."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][100:] = 0
    tensors[NORM] = torch.zeros(96)
    tensors[QUERY][3, 3] = -65504.0
    tensors["model.norm.weight"] = torch.full((96,), 1e-38, dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    run_script(convert_checkpoint.main, SETTINGS, source=folder, output=output)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(output).items())


def pickled(folder, **changes) -> None:
    torch.save({**load_file(folder / "model.safetensors"), **changes}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


PICKLED = {
    "sparse": lambda: torch.eye(192, 96).to_sparse(),
    "sparse rows": lambda: torch.eye(192, 96).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.eye(192, 96), 0.1, 0, torch.qint8),
    "a view of few values": lambda: torch.ones(1).expand(192, 96),
    "complex": lambda: torch.ones(192, 96, dtype=torch.complex64),
    "a scalar": lambda: torch.tensor(1.0),
    "no values": lambda: torch.ones(0, 96),
    "a list": lambda: [torch.ones(192, 96)],
    "a text": lambda: "weights",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("fault", PICKLED)
def test_pickled_things_that_are_no_dense_floats_are_one_line(error, folder, fault):
    pickled(folder, **{QUERY: PICKLED[fault]()})
    line = error(folder)
    assert QUERY in line or "state_dict" in line


def test_a_view_beyond_its_storage_is_one_line(error, folder):
    pickled(folder, **{QUERY: torch.ones(192, 96)})
    path = folder / "pytorch_model.bin"
    data = path.read_bytes()
    assert b"K\xc0K`\x86" in data  # how a pickle says (192, 96)
    path.write_bytes(data.replace(b"K\xc0K`\x86", b"K\xffK`\x86", 1))
    assert "pytorch_model.bin" in error(folder)


def test_torch_tells_where_tensors_are_in_a_file(folder):
    """A canary: no public way tells it. Tried with the version that the error names."""
    assert torch.__version__.split("+")[0] == TRIED_WITH
    with pytest.raises(HexportError, match=f"as torch {TRIED_WITH} does"):
        checkpoint_offset(torch.ones(3).untyped_storage())


def test_a_header_of_llama2c_that_says_millions_of_layers_is_one_line(error, tmp_path):
    path = tmp_path / "stories.bin"
    path.write_bytes(np.array([64, 172, 2**24 - 1, 8, 8, 32000, 256], "<i4").tobytes() + bytes(300))
    start = time.monotonic()
    assert "not a whole model of llama2.c" in error(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("args", [{"dim": torch.ones(2)}, {"dim": [64]}, [64], {"dim": {"n": 64}}])
def test_model_args_that_are_no_plain_values_are_one_line(error, tmp_path, args):
    torch.save({"model": {"norm.weight": torch.ones(64)}, "model_args": args}, tmp_path / "stories.pt")
    assert "stories.pt: expected names with tensors" in error(tmp_path / "stories.pt")
