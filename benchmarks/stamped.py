"""Stamped lowering in one process: what the rules do in three, for benchmarks. Import it after `use_qnn_sdk()`."""

import tempfile
from pathlib import Path

from hexport.decoder.weights import Checkpoint
from hexport.lowering.constant_methods import SpecialTokens
from hexport.lowering.lower import assemble_program, compile_shard
from hexport.lowering.plan import Plan
from hexport.lowering.templates import lower_templates
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs


def lower_stamped(plan: Plan, checkpoint: Checkpoint, attrs: QuantAttrs, special: SpecialTokens, output: Path) -> None:
    """Write a program."""
    progress, lengths = Progress(), set(plan.ar_lengths.values())
    templates = {
        ar_len: lower_templates(plan.config, plan.recipe, plan.target, ar_len, plan.context_len, progress)
        for ar_len in lengths
    }
    with tempfile.TemporaryDirectory() as folder:
        binaries = [Path(folder) / f"{number}.bin" for number in range(plan.n_shards)]
        for number, binary in enumerate(binaries):
            compile_shard(plan, number, checkpoint, attrs, templates, binary, progress)
        assemble_program(plan, attrs, templates, binaries, special, output, progress)
