"""SeqMSE's search in one layer, against the products of matrices alone that a search without shortcuts needs.

    python benchmarks/seq_mse.py

The layer has Qwen3 0.6B's sizes and random weights in 4-bit blocks of 32; its inputs are random.
"""

import tempfile
import time
from pathlib import Path

import click
import torch

from hexport.qnn_sdk import use_qnn_sdk

SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 1000,
}
RECIPE = {"weight_bits": 4, "granularity": "per_block", "block_size": 32, "kv_bits": 8, "overrides": []}


@click.command(help=__doc__)
@click.option("--candidates", default=50)
@click.option("--tokens", default=1500)
def main(candidates: int, tokens: int) -> None:
    use_qnn_sdk()
    from transformers import AutoModelForCausalLM, Qwen3Config

    from hexport.decoder.weights import Checkpoint
    from hexport.quantization.calibration import prepare_layer
    from hexport.quantization.recipe_checks import recipe_from
    from hexport.quantization.seq_mse import LOWEST, best_ratios

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(Qwen3Config(**SIZES)).save_pretrained(folder)
        checkpoint = Checkpoint(Path(folder))
        observers = prepare_layer(checkpoint.config, 0, 8, 8, recipe_from(RECIPE, "small")).weights
        weights = {name: weight for name, weight in checkpoint.layer_parameters(0).items() if weight.ndim == 4}
        search_s = products_s = 0.0
        for name, weight in weights.items():
            x = torch.randn(weight.shape[1], tokens)
            products, rows = x @ x.T, weight.flatten(1).contiguous()
            start = time.perf_counter()
            best_ratios(weight, products, observers[name], candidates)
            search_s += time.perf_counter() - start
            start = time.perf_counter()
            for _ in range(round((1 - LOWEST) * candidates)):
                rows @ products
            products_s += time.perf_counter() - start
    print(f"{candidates} candidates, {torch.get_num_threads()} threads")
    print(f"search {search_s:.1f} s, products alone {products_s:.1f} s, ratio {search_s / products_s:.2f}x")


if __name__ == "__main__":
    main()
