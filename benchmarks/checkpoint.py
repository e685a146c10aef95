"""Reading a full-size checkpoint: Llama 3.2 3B with random bfloat16 weights, 6.4 GB, against a plain copy of the file.

    python benchmarks/checkpoint.py --scratch /a/folder/with/14GB

Hashing the files for the manifests is part of the time.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from measured import HEADER, measured, ratio

from hexport.checkpoints.canonical import write_safetensors
from hexport.checkpoints.tensor import Tensor, rows_per_block
from hexport.decoder.config import decoder_config
from hexport.decoder.tensors import tensor_shapes

SCRIPT = Path(__file__).parents[1] / "scripts" / "checkpoint.py"
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"
LLAMA_3_2_3B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}


@click.command(help=__doc__)
@click.option("--scratch", type=click.Path(exists=True), help="where to put the files; default: the temporary folder")
def main(scratch: str | None) -> None:
    shapes = tensor_shapes(decoder_config(LLAMA_3_2_3B))
    tensors = [random_bfloat16(name, shape) for name, shape in shapes.items()]
    size = sum(tensor.nbytes for tensor in tensors)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if shutil.disk_usage(folder).free < 2.2 * size:
            sys.exit(f"{folder}: {2.2 * size / 1e9:.0f} GB are needed; name another folder with --scratch")
        source = Path(folder, "published")
        write_safetensors(source / "model.safetensors", tensors, "random")
        (source / "config.json").write_text(json.dumps(LLAMA_3_2_3B))
        os.sync()
        copied = Path(folder, "copy")
        copy = measured("-c", COPY, str(source / "model.safetensors"), str(copied))
        copied.unlink()
        os.sync()
        settings = Path(folder, "settings.json")
        settings.write_text('{"sha256": null, "params": null}')
        output = Path(folder, "canonical", "model.safetensors")
        convert = measured(str(SCRIPT), "--settings", str(settings), "--source", str(source), "--output", str(output))
    print(HEADER, convert.row("checkpoint.py"), copy.row("copy"), ratio(convert, copy), sep="\n")
    print(f"{size / 1e6:.0f} MB: {size / 1e6 / convert.wall_s:.0f} MB/s, a copy {size / 1e6 / copy.wall_s:.0f} MB/s")


def random_bfloat16(name: str, shape: tuple[int, ...]) -> Tensor:
    def read(multiple: int) -> Iterator[np.ndarray]:
        rng, row = np.random.default_rng(0), shape[1:]
        rows = rows_per_block(2 * int(np.prod(row)), multiple)
        for start in range(0, shape[0], rows):
            # bits of numbers from 0 to 2
            yield rng.integers(0, 0x4000, (min(rows, shape[0] - start), *row), np.uint16)

    return Tensor(name, "BF16", shape, read)


if __name__ == "__main__":
    main()
