"""What SeqMSE and GPTQ take for the weights of a model of real size: minutes and memory, told from its first layers.

    python benchmarks/weights.py llama3_2-1b_instruct
    python benchmarks/weights.py qwen3-0_6b --tokens 8192 --layers 3

The first layers have random weights and the model's own recipe. Each layer takes as long as another one, so the time of
the whole is that of a layer times their number, and that of the output projection where the recipe searches it.
"""

import resource
import tempfile
import time
from pathlib import Path

import click
from random_checkpoint import MODELS, published_config, write_random_checkpoint

from hexport.config.recipes import resolve_recipes
from hexport.config.settings import built_in_models
from hexport.qnn_sdk import use_qnn_sdk


@click.command(help=__doc__)
@click.argument("model", type=click.Choice(MODELS))
@click.option("--tokens", default=8192, show_default=True, help="in samples of 512")
@click.option("--layers", default=2, show_default=True, help="that are searched")
def main(model: str, tokens: int, layers: int) -> None:
    use_qnn_sdk()
    import torch

    from hexport.decoder.weights import Checkpoint
    from hexport.progress import Progress
    from hexport.quantization.recipe_checks import recipe_from
    from hexport.quantization.weight_search import search

    recipe = recipe_from(resolve_recipes({})[built_in_models()[model]["recipe"]], model)
    config, ids = published_config(model, layers), torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder), config)
        checkpoint = Checkpoint(Path(folder), recipe.basis)
        samples = [torch.randint(256, (512,), generator=ids).tolist() for _ in range(tokens // 512)]
        began = time.time()
        search(checkpoint, samples, recipe, Progress(), Path(folder) / "weights")
        found = (Path(folder) / "weights").glob("*.safetensors")
        ended = {file.name.partition(".")[0]: file.stat().st_mtime for file in found}  # of each layer, and the epilogue
    each = (ended[str(layers - 1)] - began) / layers
    head = ended["epilogue"] - ended[str(layers - 1)] if "epilogue" in ended else 0.0
    n_layers, peak = published_config(model)["num_hidden_layers"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{model}, {tokens} tokens, {torch.get_num_threads()} threads: a layer {each:.1f} s, head {head:.1f} s;")
    print(f"{n_layers} layers {(n_layers * each + head) / 60:.1f} minutes, peak {peak / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
