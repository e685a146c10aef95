"""Make a checkpoint of the sizes of a built-in model, a Hugging Face folder: random bfloat16 weights, a byte tokenizer.

    python benchmarks/random_checkpoint.py llama3_2-1b_instruct /a/folder
    python benchmarks/random_checkpoint.py gemma3-1b /a/folder --layers 2    its first layers only

The config is the published one (tests/published). Weights are written in blocks of 4 MB, so memory stays small.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hexport.checkpoints.canonical import write_safetensors
from hexport.checkpoints.tensor import Tensor, rows_per_block
from hexport.decoder.config import decoder_config
from hexport.decoder.tensors import tensor_shapes

PUBLISHED = Path(__file__).parents[1] / "tests" / "published"
MODELS = sorted(file.stem for file in PUBLISHED.glob("*.json"))


@click.command(help=__doc__)
@click.argument("model", type=click.Choice(MODELS))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", type=click.IntRange(min=1), help="only so many")
def main(model: str, folder: Path, layers: int | None) -> None:
    write_random_checkpoint(folder, published_config(model, layers))
    print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e6:.0f} MB")


def published_config(model: str, layers: int | None = None) -> dict:
    """The config.json of a built-in model, or of its first layers."""
    config = json.loads((PUBLISHED / f"{model}.json").read_text())
    return cut_config(config, layers) if layers else config


def cut_config(config: dict, layers: int) -> dict:
    """The config.json of a model's first layers. Lists with a value for each layer are cut, too."""
    n_layers = config["num_hidden_layers"]
    per_layer = {"layer_types", "no_rope_layers"} & config.keys()
    return {**config, "num_hidden_layers": min(layers, n_layers)} | {key: config[key][:layers] for key in per_layer}


def write_random_checkpoint(folder: Path, config: dict) -> None:
    """Write the files of a Hugging Face folder, tokenizer included. Equal configs give equal bytes."""
    write_safetensors(folder / "model.safetensors", random_tensors(config), "random")
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def random_tensors(config: dict) -> list[Tensor]:
    """Normally distributed bfloat16 tensors, of scales that keep activations about as large as their inputs."""
    decoder = decoder_config(config)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("norm.weight"):
            return random_bfloat16(name, shape, 1 - decoder.norm_offset, 0.1)
        return random_bfloat16(name, shape, 0, decoder.hidden_size**-0.5 if len(shape) == 1 else shape[1] ** -0.5)

    return [tensor(name, shape) for name, shape in tensor_shapes(decoder).items()]


def random_bfloat16(name: str, shape: tuple[int, ...], mean: float, deviation: float) -> Tensor:
    def read(multiple: int) -> Iterator[np.ndarray]:
        rng, row = np.random.default_rng(zlib.crc32(name.encode())), shape[1:]
        rows = rows_per_block(4 * int(np.prod(row)), multiple)
        for start in range(0, shape[0], rows):
            values = rng.standard_normal((min(rows, shape[0] - start), *row), np.float32)
            bits = (values * np.float32(deviation) + np.float32(mean)).view(np.uint32)
            yield (bits >> 16).astype(np.uint16)

    return Tensor(name, "BF16", shape, read)


def byte_tokenizer() -> Tokenizer:
    """One token per byte, 0 to 255, then <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


if __name__ == "__main__":
    main()
