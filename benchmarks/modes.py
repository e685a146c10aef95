"""Hybrid and lookahead against mode kv, on the demo model: lowering, size, and speed on the emulator, in the same run.

    make benchmark
    python benchmarks/modes.py --steps 8     a quicker one: fewer steps of mode kv are timed

Calibration is no part of it: all modes use the same quant attrs.
"""

import sys
import tempfile
from pathlib import Path

import click
from measured import HEADER, Timed, measured

from hexport.qnn_sdk import use_qnn_sdk

LOWER = Path(__file__).parent / "lower_once.py"
CONTEXT, BLOCK = 1024, 128
NGRAM, WINDOW, GCAP = 3, 4, 4
STEP = 16  # tokens of a lookahead step, a power of 2
AR_LENGTHS = {"kv": (), "hybrid": (1, BLOCK), "lookahead": (STEP, BLOCK)}
REPETITIVE = "The cat sat on the mat. The dog sat on the rug. " * 4


@click.command(help=__doc__)
@click.option("--model", default="artifacts/smollm2_135m", help="folder of a model in artifacts/")
@click.option("--recipe", default="16a8w_r1")
@click.option("--soc", default="SM8650")
@click.option("--steps", default=BLOCK, help="tokens that are read in mode kv")
@click.option("--answer", default=24, help="tokens that lookahead generates")
def main(model: str, recipe: str, soc: str, steps: int, answer: int) -> None:
    use_qnn_sdk()
    with tempfile.TemporaryDirectory() as scratch:
        lowering(Path(model), recipe, soc, Path(scratch))
        running(Path(model), Path(scratch), steps, answer)


def lowering(model: Path, recipe: str, soc: str, scratch: Path) -> None:
    print(f"{model.name}, max_seq_len {CONTEXT}, prefill_ar_len {BLOCK}")
    print(HEADER)
    arguments = [str(model / "checkpoint"), str(model / recipe / "quant_attrs.json"), str(model / "tokenizer"), recipe]
    for target in (f"{soc}-emulator", soc):
        costs, sizes = {}, {}
        for mode, lengths in AR_LENGTHS.items():
            program = scratch / f"{target}_{mode}.pte"
            words = [*arguments, target, str(CONTEXT), str(program), *map(str, lengths)]
            costs[mode] = measured(str(LOWER), "stamped", *words)
            sizes[mode] = program.stat().st_size
            print(costs[mode].row(f"{target} {mode}"), f"{sizes[mode] / 1e6:>8.1f} MB")
        print(
            f"hybrid / kv: {costs['hybrid'].wall_s / costs['kv'].wall_s:.2f}x wall, "
            f"{sizes['hybrid'] / sizes['kv']:.2f}x size"
        )


def running(model: Path, scratch: Path, steps: int, answer: int) -> None:
    from hexport.devices.emulator import Run, load_generator
    from hexport.progress import Progress
    from hexport.runtime.lookahead import Size
    from hexport.tokenizers.tokenizer import load_tokenizer

    tokens = load_tokenizer(model / "tokenizer").encode(REPETITIVE * 4)[:BLOCK]

    def ask(mode: str, prompt: list[int], end: int):
        run = Run(mode, Size(NGRAM, WINDOW, GCAP) if mode == "lookahead" else None, "", 0.0, CONTEXT)
        (program,) = scratch.glob(f"*-emulator_{mode}.pte")
        generator = load_generator(program, run, Progress())
        timed = Timed.of(generator)
        generation = generator.generate(prompt, end, frozenset())
        own = generation.total_s - timed.seconds
        read = len(prompt) + len(generation.token_ids) - 1
        print(f"{mode}: {own / read * 1e3:.2f} ms runtime's own a token, {own / timed.seconds:.2%} of the program's")
        return generation

    kv, hybrid = ask("kv", tokens[:steps], steps + 1), ask("hybrid", tokens, BLOCK + 1)
    kv_s, hybrid_s = kv.first_token_s / steps * BLOCK, hybrid.first_token_s
    print(f"{BLOCK} tokens: kv {kv_s:.1f} s ({steps} steps timed), hybrid {hybrid_s:.1f} s: {kv_s / hybrid_s:.1f}x")
    found = ask("lookahead", tokens, BLOCK + answer)
    per_step = (len(found.token_ids) - 1) / found.decode_steps
    if found.token_ids != ask("hybrid", tokens, BLOCK + answer).token_ids:
        sys.exit("benchmark: lookahead and hybrid gave different answers")
    print(f"lookahead, ngram {NGRAM}, window {WINDOW}, gcap {GCAP}: {per_step:.2f} tokens a step on repetitive text")


if __name__ == "__main__":
    main()
