"""Lower a model by one flow and write the program: the process that benchmarks/lowering.py measures.

python benchmarks/lower_once.py stamped|plain CHECKPOINT QUANT_ATTRS TOKENIZER RECIPE TARGET MAX_SEQ_LEN OUTPUT
"""

import sys
from pathlib import Path

from hexport.qnn_sdk import use_qnn_sdk

use_qnn_sdk()
from hexport.decoder.weights import Checkpoint  # noqa: E402 - after the QNN libraries
from hexport.lowering.lower import SpecialTokens, lower_kv  # noqa: E402
from hexport.lowering.plain import lower_plain  # noqa: E402
from hexport.lowering.target import target_named  # noqa: E402
from hexport.progress import Progress  # noqa: E402
from hexport.quantization.quant_attrs import load_quant_attrs  # noqa: E402
from hexport.quantization.recipe import load_recipe  # noqa: E402
from hexport.tokenizers.tokenizer import load_tokenizer  # noqa: E402


def main(flow: str, checkpoint: str, attrs: str, tokenizer: str, recipe: str, target: str, context: str, output: str):
    special = SpecialTokens.of(load_tokenizer(Path(tokenizer)), Path(tokenizer))
    model = Checkpoint(Path(checkpoint)), load_quant_attrs(Path(attrs)), load_recipe(recipe)
    program = target_named(target), int(context)
    if flow == "stamped":
        pte = lower_kv(*model, *program, 1, special, Progress()).pte
    else:
        pte = lower_plain(*model, *program, special)
    Path(output).write_bytes(pte)


if __name__ == "__main__":
    main(*sys.argv[1:])
