"""Layer-by-layer calibration against transformers' own float32 forward on the same tokens, in the same run.

    python benchmarks/calibration.py --samples 16

Both times include reading the weights; imports are left out of both.
"""

import time
from pathlib import Path

import click
import torch

from hexport.qnn_sdk import use_qnn_sdk


@click.command(help=__doc__)
@click.option("--checkpoint", default="artifacts/smollm2_135m/checkpoint")
@click.option("--recipe", default="16a8w")
@click.option("--samples", default=16, help="sequences of random tokens")
@click.option("--length", default=512, help="tokens in each")
def main(checkpoint: str, recipe: str, samples: int, length: int) -> None:
    use_qnn_sdk()
    from transformers import AutoModelForCausalLM

    from hexport.config.recipes import resolve_recipes
    from hexport.decoder.weights import Checkpoint
    from hexport.progress import Progress
    from hexport.quantization.calibration import calibrate
    from hexport.quantization.recipe_checks import recipe_from

    canonical = Checkpoint(Path(checkpoint))
    torch.manual_seed(0)
    data = torch.randint(0, canonical.config.vocab_size, (samples, length)).tolist()

    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        for sample in data:
            model(torch.tensor([sample]))
    forward = time.perf_counter() - start

    start = time.perf_counter()
    calibrate(canonical, data, recipe_from(resolve_recipes({})[recipe], recipe), Progress())
    calibration = time.perf_counter() - start
    print(f"{samples} samples of {length} tokens, {torch.get_num_threads()} threads")
    print(f"transformers forward {forward:.1f} s, calibration {calibration:.1f} s, ratio {calibration / forward:.2f}x")


if __name__ == "__main__":
    main()
