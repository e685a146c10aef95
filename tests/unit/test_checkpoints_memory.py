"""However large a checkpoint is, converting it takes the memory of a few blocks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf_files import write_gguf
from meta_files import meta_state, write_meta

import convert_checkpoint

pytestmark = pytest.mark.slow

# VmHWM is of this process alone; ru_maxrss would start at the memory of pytest, which starts it.
RUN_AND_TELL_PEAK = """
import atexit, pathlib, convert_checkpoint
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
convert_checkpoint.main()
"""


def peak_and_size_mb(source: Path, output: Path) -> tuple[float, float]:
    """Peak memory of the whole process, interpreter and imports included, and the size of the output.

    The output goes at once: pytest keeps the folders of three runs.
    """
    settings = json.dumps({"sha256": None, "params": None})
    arguments = ["--settings", "-", "--source", str(source), "--output", str(output)]
    command = [sys.executable, "-c", RUN_AND_TELL_PEAK, *arguments]
    done = subprocess.run(
        command, cwd=Path(convert_checkpoint.__file__).parent, input=settings.encode(), check=True, capture_output=True
    )
    size = output.stat().st_size
    output.unlink()
    return int(done.stdout) / 1024, size / 2**20


def write_pickled(path, model, kind):
    model.save_pretrained(path)
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def write_shards(path, model, kind):
    config = model.config
    params = {"dim": config.hidden_size, "n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads}
    params["n_kv_heads"] = config.num_key_value_heads
    return write_meta(path, meta_state(model), params, shards=2, embedding_dim=1)


@pytest.mark.parametrize(
    ("write", "kind"), [(write_gguf, "F32"), (write_gguf, "Q4_0"), (write_pickled, "F32"), (write_shards, "F32")]
)
def test_memory_does_not_grow_with_the_checkpoint(tiny_llama, tmp_path, write, kind):
    """150 MB in float32, 82 MB of it one tensor: the peak stays within a few blocks of a tiny checkpoint's."""
    suffix = ".gguf" if write is write_gguf else ""
    heads = {"head_dim": 64, "num_attention_heads": 8}
    model = tiny_llama(hidden_size=512, vocab_size=64, num_hidden_layers=1, tie_word_embeddings=True, **heads)
    small = write(tmp_path / f"small{suffix}", model, GGMLQuantizationType[kind])
    sizes = {"hidden_size": 512, "vocab_size": 40000, "intermediate_size": 2560, "num_hidden_layers": 4}
    model = tiny_llama(**sizes, **heads, tie_word_embeddings=True)
    large = write(tmp_path / f"large{suffix}", model, GGMLQuantizationType[kind])
    small_peak, _ = peak_and_size_mb(small, tmp_path / "small-checkpoint" / "model.safetensors")
    large_peak, size = peak_and_size_mb(large, tmp_path / "large-checkpoint" / "model.safetensors")
    shutil.rmtree(large) if large.is_dir() else large.unlink()
    assert size > 140
    assert large_peak - small_peak < 30


def test_the_demo_model_stays_below_a_third_of_its_float32_size(smollm2_gguf, tmp_path):
    peak, size = peak_and_size_mb(smollm2_gguf, tmp_path / "model.safetensors")
    assert size > 500
    assert peak < size / 3
