"""GGUF files that say of themselves what is not so: one line, at once, whatever the count, the length or the offset."""

import struct
import time

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf_files import write_gguf

import convert_checkpoint
import extract_tokenizer as tokenizer_script
from hexport.checkpoints.gguf_file import open_gguf
from hexport.errors import HexportError

SETTINGS = {"sha256": None, "params": None}
U32, STRING, ARRAY, F32 = 4, 8, 9, 6


def text(content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content)) + content


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name="t", sizes=(8,), kind=0, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def header(*parts: bytes, tensors=0, keys=0, version=3, data=bytes(64)) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)
    return start + bytes(-len(start) % 32) + data


NUMBER = key("general.alignment", U32, struct.pack("<I", 32))
FAULTS = {
    "empty": (b"", "fewer than 4 bytes"),
    "other": (b"GGML" + bytes(60), "does not begin with GGUF"),
    "version": (header(version=1), "version 1 of GGUF"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "keys": (header(keys=1 << 60), "keys, more than 10000"),
    "tensors": (header(tensors=1 << 63), "tensors, more than 100000"),
    "more keys than there are": (header(NUMBER, keys=9, data=b""), "ends in its header"),
    "key's length": (header(struct.pack("<Q", 1 << 62), keys=1), "bytes in a text, more than"),
    "text's length": (header(key("a", STRING, struct.pack("<Q", 10**9)), keys=1), "bytes in a text, more than"),
    "numbers": (header(key("a", ARRAY, struct.pack("<IQ", F32, 1 << 62)), keys=1), "items in the list a, more than"),
    "numbers beyond the end": (header(key("a", ARRAY, struct.pack("<IQ", F32, 10**6)), keys=1), "ends in its header"),
    "texts": (header(key("a", ARRAY, struct.pack("<IQ", STRING, 1 << 40)), keys=1), "items in the list a, more than"),
    "texts of which one is long": (
        header(key("a", ARRAY, struct.pack("<IQQ", STRING, 2, (1 << 64) - 1)), keys=1),
        "ends in its header",
    ),
    "lists": (header(key("a", ARRAY, struct.pack("<IQ", ARRAY, 1)), keys=1), "of things of type 9"),
    "type": (header(key("a", 77, b""), keys=1), "unknown type 77"),
    "key twice": (header(NUMBER, NUMBER, keys=2), "the key general.alignment twice"),
    "alignment": (header(key("general.alignment", U32, struct.pack("<I", 3)), keys=1), "expected a power of two"),
    "alignment as a text": (header(key("general.alignment", STRING, text("32")), keys=1), "expected a whole number"),
    "parts as a text": (header(key("split.count", STRING, text("2")), keys=1), "split.count is '2', expected a whole"),
    "dimensions": (header(tensor(sizes=(1,) * 9), tensors=1), "of 9 dimensions"),
    "no dimension": (header(tensor(sizes=()), tensors=1), "of 0 dimensions"),
    "empty tensor": (header(tensor(sizes=(8, 0)), tensors=1), "impossible sizes [8, 0]"),
    "sizes whose product wraps": (header(tensor(sizes=(1 << 32, 1 << 32)), tensors=1), "impossible sizes"),
    "tensor's type": (header(tensor(kind=999), tensors=1), "unknown type 999"),
    "rows of half a block": (header(tensor(sizes=(33,), kind=2), tensors=1), "no multiple of 32"),
    "offset that wraps": (header(tensor(offset=(1 << 64) - 64), tensors=1), "ends before the tensor t does"),
    "offset beyond the end": (header(tensor(offset=64), tensors=1), "ends before the tensor t does"),
    "offset between two places": (header(tensor(sizes=(4,), offset=4), tensors=1), "between two places"),
    "tensors that overlap": (header(tensor("a"), tensor("b"), tensors=2), "where another one is"),
    "tensor twice": (header(tensor("a"), tensor("a", offset=32), tensors=2), "the tensor a twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_header_that_does_not_fit_its_file_is_one_line(tmp_path, fault):
    content, part = FAULTS[fault]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(HexportError, match=r"model\.gguf: ") as failure:
        open_gguf(path)
    assert time.monotonic() - start < 1
    assert part in str(failure.value)
    assert "\n" not in str(failure.value)


VALUES = {
    "layers": ({"block_count": 10_000_000}, "llama.block_count = 10000000: more than 1000"),
    "half a layer": ({"block_count": 2.5}, "llama.block_count = 2.5: expected a whole number"),
    "layers as a text": ({"block_count": "2"}, "llama.block_count = '2': expected one positive number"),
    "theta without end": ({"rope__freq_base": float("inf")}, "rope.freq_base = inf: expected one positive number"),
    "scaling as a list": ({"rope__scaling__type": ["yarn"]}, "rope.scaling.type is a list of 1 texts, expected a text"),
    "end as a text": ({"metadata": [("tokenizer.ggml.eos_token_id", "2")]}, "is '2', expected a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("fault", VALUES)
def test_a_value_of_another_type_is_one_line(script_error, tiny_llama, tmp_path, output, fault):
    changes, part = VALUES[fault]
    source = write_gguf(tmp_path / "model.gguf", tiny_llama(), **changes)
    start = time.monotonic()
    assert part in script_error(convert_checkpoint.main, SETTINGS, source=source, output=output)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("tokenizer.ggml.model is a list of 1 texts, expected a text", {"model": ["gpt2"]}),
        ("tokenizer.ggml.pre is a list of 1 texts, expected a text", {"pre": ["smollm"]}),
        ("tokenizer.ggml.tokens is 'a', expected a list of texts", {"tokens": "a"}),
        ("tokenizer.ggml.token_type is a list of 2 texts, expected a list of numbers", {"token_type": ["1", "1"]}),
        ("tokenizer.ggml.bos_token_id is '1', expected a whole number", {"bos_token_id": "1"}),
        ("tokenizer.ggml.eos_token_id is [1, 2], expected a whole number", {"eos_token_id": [1, 2]}),
        ("tokenizer.ggml.add_bos_token is 1, expected true or false", {"add_bos_token": 1}),
        ("tokenizer.chat_template is 7, expected a text", {"chat_template": 7}),
    ],
)
def test_tokenizer_metadata_of_another_type_is_one_line(script_error, tmp_path, part, changes):
    from small_tokenizers import reference
    from test_tokenizers_gguf import write_gguf

    keys = {(f"ggml__{key}" if key != "chat_template" else key): value for key, value in changes.items()}
    source = write_gguf(tmp_path / "model.gguf", reference("smollm"), "smollm", **keys)
    output = tmp_path / "out" / "tokenizer.json"
    assert part in script_error(tokenizer_script.main, {}, source=source, output=output)


def test_what_is_read_is_what_the_gguf_package_reads(tiny_llama, tmp_path):
    """Sizes and offsets of every type that a tensor can have here, and of texts and lists."""
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_1"):
        source = write_gguf(tmp_path / f"{kind}.gguf", tiny_llama(), GGMLQuantizationType[kind])
        ours, theirs = open_gguf(source), GGUFReader(source)
        assert [(t.name, t.kind, t.offset, t.nbytes) for t in ours.tensors] == [
            (t.name, t.tensor_type, t.data_offset, t.n_bytes) for t in theirs.tensors
        ]
        assert [t.shape for t in ours.tensors] == [tuple(int(n) for n in reversed(t.shape)) for t in theirs.tensors]
        for name, value in ours.metadata.items():
            assert np.array_equal(value, theirs.get_field(name).contents()), name
