"""Stamped lowering against the plain flow, on the same model, quant attrs and target, in the same run.

    make benchmark                            the whole model; the plain flow takes many minutes
    python benchmarks/lowering.py --layers 4  its first four layers

Calibration is not part of either figure; benchmarks/calibration.py measures it.
"""

import json
import tempfile
from pathlib import Path

import click
import torch
from measured import HEADER, measured, ratio
from random_checkpoint import cut_config
from safetensors.torch import safe_open, save_file

HERE = Path(__file__).parent
LOWER = HERE / "lower_once.py"


@click.command(help=__doc__)
@click.option("--model", default="artifacts/smollm2_135m", help="folder of a model in artifacts/")
@click.option("--recipe", default="16a8w_r1")
@click.option("--target", default="SM8650-emulator")
@click.option("--max-seq-len", default=512)
@click.option("--layers", type=int, help="only the first layers of the model")
def main(model: str, recipe: str, target: str, max_seq_len: int, layers: int | None) -> None:
    folder, attrs = Path(model), Path(model) / recipe / "quant_attrs.json"
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = folder / "checkpoint"
        if layers:
            checkpoint = cut(checkpoint, Path(scratch), layers)
        arguments = [str(checkpoint), str(attrs), str(folder / "tokenizer"), recipe, target, str(max_seq_len)]
        stamped = measured(str(LOWER), "stamped", *arguments, f"{scratch}/stamped.pte")
        plain = measured(str(LOWER), "plain", *arguments, f"{scratch}/plain.pte")
        sizes = [Path(scratch, f"{flow}.pte").stat().st_size for flow in ("stamped", "plain")]
    n_layers = layers or json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    print(
        f"{folder.name}, {n_layers} layers, {recipe}, kv, max_seq_len {max_seq_len}, {target}, "
        f"{torch.get_num_threads()} threads"
    )
    print(HEADER, stamped.row("stamped"), plain.row("plain"), ratio(plain, stamped), sep="\n")
    print(f"program sizes in bytes: stamped {sizes[0]}, plain {sizes[1]}")


def cut(checkpoint: Path, scratch: Path, layers: int) -> Path:
    """A checkpoint of the first layers of another one."""
    config = json.loads((checkpoint / "config.json").read_text())
    (scratch / "config.json").write_text(json.dumps(cut_config(config, layers)))
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        kept = [name for name in file.keys() if not in_later_layer(name, layers)]  # noqa: SIM118 - not a dict
        save_file({name: file.get_tensor(name) for name in kept}, scratch / "model.safetensors")
    return scratch


def in_later_layer(name: str, layers: int) -> bool:
    parts = name.split(".")
    return "layers" in parts and int(parts[parts.index("layers") + 1]) >= layers


if __name__ == "__main__":
    main()
