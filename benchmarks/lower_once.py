"""Lower a model by one flow and write the program: the process that benchmarks/lowering.py measures.

python benchmarks/lower_once.py FLOW CHECKPOINT QUANT_ATTRS TOKENIZER RECIPE TARGET MAX_SEQ_LEN OUTPUT [DECODE PREFILL]

FLOW is stamped or plain. DECODE and PREFILL are AR lengths; without them, the program is one of mode kv.
"""

import sys
from pathlib import Path

from hexport.qnn_sdk import use_qnn_sdk

use_qnn_sdk()
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from plain_flow import lower_plain  # noqa: E402 - after the QNN libraries
from stamped import lower_stamped  # noqa: E402

from hexport.config.recipes import resolve_recipes  # noqa: E402
from hexport.decoder.weights import Checkpoint  # noqa: E402
from hexport.lowering.constant_methods import SpecialTokens  # noqa: E402
from hexport.lowering.plan import Plan  # noqa: E402
from hexport.programs.abi import KV_METHOD, PREFILL_METHOD  # noqa: E402
from hexport.quantization.quant_attrs import load_quant_attrs  # noqa: E402
from hexport.quantization.recipe_checks import recipe_from  # noqa: E402
from hexport.targets.target import target_named  # noqa: E402
from hexport.tokenizers.backend import special_ids  # noqa: E402


def main(
    flow: str,
    checkpoint: str,
    attrs: str,
    tokenizer: str,
    recipe: str,
    target: str,
    context: str,
    output: str,
    decode: str = "1",
    prefill: str | None = None,
):
    special = SpecialTokens.of(special_ids(Path(tokenizer)), Path(tokenizer))
    spec = recipe_from(resolve_recipes({})[recipe], recipe)
    model, quant_attrs = Checkpoint(Path(checkpoint), spec.basis), load_quant_attrs(Path(attrs))
    if flow == "stamped":
        lengths = {KV_METHOD: int(decode)} | ({PREFILL_METHOD: int(prefill)} if prefill else {})
        plan = Plan(model.config, spec, target_named(target), lengths, int(context), 1)
        lower_stamped(plan, model, quant_attrs, special, Path(output))
    else:
        pte = lower_plain(model, quant_attrs, spec, target_named(target), int(context), special)
        Path(output).write_bytes(pte)


if __name__ == "__main__":
    main(*sys.argv[1:])
