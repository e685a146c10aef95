"""The runtime's own time a token, everything but the program's execution, on a llama of 260k random parameters.

    make benchmark

benchmarks/modes.py measures the same on the demo model.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
from measured import Timed

from hexport.qnn_sdk import use_qnn_sdk

VOCABULARY, CONTEXT, BLOCK = 512, 512, 32
AR_LENGTHS = {"kv": (None, 1), "hybrid": (BLOCK, 1), "lookahead": (BLOCK, 16)}


@click.command(help=__doc__)
@click.option("--tokens", default=200, help="tokens of prompt and answer together")
def main(tokens: int) -> None:
    use_qnn_sdk()
    with tempfile.TemporaryDirectory() as scratch:
        programs = lowered(Path(scratch))
        for mode, program in programs.items():
            print(f"{mode}: {own_ms(mode, program, tokens):.3f} ms of the runtime's own a token")


def lowered(folder: Path) -> dict[str, Path]:
    from stamped import lower_stamped
    from transformers import LlamaConfig, LlamaForCausalLM

    from hexport.decoder.weights import Checkpoint
    from hexport.lowering.constant_methods import SpecialTokens
    from hexport.lowering.plan import Plan
    from hexport.programs.abi import KV_METHOD, PREFILL_METHOD
    from hexport.progress import Progress
    from hexport.quantization.calibration import calibrate
    from hexport.quantization.recipe_checks import recipe_from
    from hexport.targets.target import target_named

    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5, "vocab_size": VOCABULARY}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4)).save_pretrained(folder)
    checkpoint, recipe = Checkpoint(folder), recipe_from({}, "16a8w")
    samples = np.random.default_rng(0).integers(0, VOCABULARY, (2, 64)).tolist()
    attrs = calibrate(checkpoint, samples, recipe, Progress())
    programs = {}
    for mode, (prefill, decode) in AR_LENGTHS.items():
        lengths = {KV_METHOD: decode} | ({PREFILL_METHOD: prefill} if prefill else {})
        plan = Plan(checkpoint.config, recipe, target_named("SM8650-emulator"), lengths, CONTEXT, 1)
        programs[mode] = folder / f"{mode}.pte"
        lower_stamped(plan, checkpoint, attrs, SpecialTokens(1, 2), programs[mode])
    print(f"{checkpoint.config.n_layers} layers, max_seq_len {CONTEXT}")
    return programs


def own_ms(mode: str, program: Path, tokens: int) -> float:
    from hexport.devices.emulator import Run, load_generator
    from hexport.progress import Progress
    from hexport.runtime.lookahead import Size

    run = Run(mode, Size(3, 4, 4) if mode == "lookahead" else None, "", 0.0, CONTEXT)
    generator = load_generator(program, run, Progress())
    timed = Timed.of(generator)
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, tokens // 2).tolist()
    generation = generator.generate(prompt, tokens, frozenset())
    return (generation.total_s - timed.seconds) / tokens * 1e3


if __name__ == "__main__":
    main()
