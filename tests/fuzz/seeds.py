"""Good inputs, which cases damage: small, and made once for all. Nobody writes to them."""

import json
import os
import struct
from pathlib import Path

import numpy as np
from gguf_bytes import ARRAY, F32, FLOAT32, INT32, STRING, UINT32, Entry, Matrix, gguf
from tiny_model import Tiny, build_tiny
from workflow_tree import write_checkpoint

DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 32, 64, 2, 4, 2, 260, 64
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
_root: list[Path] = []
_tiny: list[Tiny] = []


def make(root: Path) -> None:
    """Write those that need no torch, in a few tenths of a second."""
    _root[:] = [root]
    write_checkpoint(hf(), hidden=DIM)
    (root / "llama2c").mkdir()
    llama2c().write_bytes(llama2c_bytes())
    (root / "gguf").mkdir()
    gguf_file().write_bytes(gguf(gguf_entries(), gguf_tensors()))
    _make_tokenizers(root)
    (root / "text.txt").write_text("It was a dark and stormy night; the rain fell in torrents.\n" * 8)


def make_torch(built: Path | None) -> None:
    """Write those that need torch. `built` is a folder of `build_tiny`; it is built anew where there is none."""
    import torch

    if built is None:
        if not (child := os.fork()):  # native libraries start threads, which must not reach the cases
            build_tiny(_root[0] / "tiny")
            os._exit(0)
        os.waitpid(child, 0)
        built = _root[0] / "tiny"
    _tiny[:] = [Tiny(built.resolve())]

    kv = KV_HEADS * DIM // HEADS
    shapes = {"attention.wq": (DIM, DIM), "attention.wk": (kv, DIM), "attention.wv": (kv, DIM)}
    shapes |= {"attention.wo": (DIM, DIM), "attention_norm": (DIM,), "ffn_norm": (DIM,)}
    shapes |= {"feed_forward.w1": (FFN, DIM), "feed_forward.w2": (DIM, FFN), "feed_forward.w3": (FFN, DIM)}
    named = {f"layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in shapes.items()}
    named |= {"tok_embeddings": (VOCABULARY, DIM), "norm": (DIM,), "output": (VOCABULARY, DIM)}
    torch.manual_seed(0)
    torch_folder("meta").mkdir()
    state = {f"{name}.weight": torch.randn(shape) * 0.1 for name, shape in named.items()}
    torch.save(state, torch_folder("meta") / "consolidated.00.pth")
    (torch_folder("meta") / "params.json").write_text("{}")


def hf() -> Path:
    """A Hugging Face folder of a llama, with its tokenizer."""
    return _root[0] / "hf"


def llama2c() -> Path:
    return _root[0] / "llama2c" / "model.bin"


def gguf_file() -> Path:
    return _root[0] / "gguf" / "model.gguf"


def tokenizer() -> Path:
    """What scripts/extract_tokenizer.py wrote, with a chat template."""
    return _root[0] / "tokenizer"


def sentencepiece() -> Path:
    return _root[0] / "sentencepiece" / "tokenizer.model"


def tiktoken() -> Path:
    return _root[0] / "tiktoken" / "tokenizer.model"


def text() -> Path:
    return _root[0] / "text.txt"


def torch_folder(name: str) -> Path:
    """Of what needs torch: `meta`."""
    return _root[0] / name


def tiny() -> Tiny:
    """A model with its artifacts up to a program."""
    return _tiny[0]


def llama2c_bytes() -> bytes:
    """Version 0: seven integers, then float32 weights."""
    head = DIM // HEADS
    layer = 2 * DIM * DIM + 2 * DIM * KV_HEADS * head + 3 * DIM * FFN + 2 * DIM
    count = VOCABULARY * DIM + LAYERS * layer + DIM + 2 * CONTEXT * head // 2
    weights = np.random.default_rng(0).standard_normal(count, np.float32) * np.float32(0.1)
    return struct.pack("<7i", DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT) + weights.tobytes()


def gguf_entries() -> list[Entry]:
    """Metadata of a llama with a byte-level tokenizer, as llama.cpp's converter writes it."""
    stages = json.loads((hf() / "tokenizer.json").read_text())
    tokens = [*sorted(stages["model"]["vocab"], key=stages["model"]["vocab"].get), "<s>", "</s>", "ab", "abc"]
    numbers = {
        "block_count": LAYERS, "context_length": CONTEXT, "embedding_length": DIM, "feed_forward_length": FFN,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "vocab_size": VOCABULARY,
        "rope.dimension_count": DIM // HEADS,
    }  # fmt: skip
    return [
        Entry("general.architecture", STRING, "llama"),
        *(Entry(f"llama.{key}", UINT32, value) for key, value in numbers.items()),
        Entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        Entry("llama.rope.freq_base", FLOAT32, 10000.0),
        Entry("tokenizer.ggml.model", STRING, "gpt2"),
        Entry("tokenizer.ggml.pre", STRING, "llama-bpe"),
        Entry("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        Entry("tokenizer.ggml.token_type", ARRAY, (INT32, [1] * 256 + [3, 3, 1, 1])),
        Entry("tokenizer.ggml.merges", ARRAY, (STRING, ["a b", "ab c"])),
        Entry("tokenizer.ggml.bos_token_id", UINT32, 256),
        Entry("tokenizer.ggml.eos_token_id", UINT32, 257),
    ]


def gguf_tensors() -> list[Matrix]:
    kv = KV_HEADS * DIM // HEADS
    shapes = {"attn_q": (DIM, DIM), "attn_k": (kv, DIM), "attn_v": (kv, DIM), "attn_output": (DIM, DIM)}
    shapes |= {"ffn_gate": (FFN, DIM), "ffn_up": (FFN, DIM), "ffn_down": (DIM, FFN)}
    shapes |= {"attn_norm": (DIM,), "ffn_norm": (DIM,)}
    named = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in shapes.items()}
    named = {"token_embd.weight": (VOCABULARY, DIM), "output_norm.weight": (DIM,), **named}
    random = np.random.default_rng(0)
    return [Matrix(name, shape, F32, random.standard_normal(shape, np.float32) * 0.1) for name, shape in named.items()]


def _make_tokenizers(root: Path) -> None:
    from small_tokenizers import convert, sentencepiece_model

    for path, content in ((sentencepiece(), sentencepiece_model("llama")), (tiktoken(), _tiktoken_bytes())):
        path.parent.mkdir()
        path.write_bytes(content)
    convert(hf(), tokenizer())
    for manifest in tokenizer().glob("*.manifest.json"):  # with one, damage would be all that is seen
        manifest.unlink()
    config = tokenizer() / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": TEMPLATE}))


def _tiktoken_bytes() -> bytes:
    """All bytes, in tiktoken's lines of base64 and rank, and two merges."""
    import base64

    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"abc"]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
