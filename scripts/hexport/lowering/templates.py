"""This module makes the templates of a decoder, for one AR length, context length and HTP architecture.

They hold no weights.
"""

import itertools
from dataclasses import replace

from hexport.decoder.config import DecoderConfig
from hexport.decoder.model import Epilogue, Prologue
from hexport.errors import HexportError
from hexport.lowering.template import Template, Templates, resize
from hexport.lowering.template_lowering import lower_template
from hexport.progress import Progress
from hexport.quantization.calibration import prepare_epilogue, prepare_layer, prepare_prologue
from hexport.quantization.recipe import Recipe
from hexport.targets.target import Target


def lower_templates(
    config: DecoderConfig, recipe: Recipe, target: Target, ar_len: int, context_len: int, progress: Progress
) -> Templates:
    """Lower the prologue, the epilogue and one layer of each signature.

    All SoCs of an HTP architecture, and their emulators, give the same. A graph that is as long as the context has no
    caches. Raises HexportError for one that is longer.
    """
    if ar_len > context_len:
        raise HexportError(f"AR length {ar_len} is more than max_seq_len {context_len}; use a smaller one")
    small = with_small_vocabulary(config, context_len, ar_len)
    with progress.stage(f"template prologue AR-{ar_len}"):
        prologue = lower_template(prepare_prologue(Prologue(small, context_len), ar_len, recipe), target)
    layers: dict[tuple, Template] = {}
    signatures = [(config.layer_signature(i), recipe.template_of(i)) for i in range(config.n_layers)]
    for i, signature in enumerate(signatures):
        if signature not in layers:
            with progress.stage(f"template layer AR-{ar_len} {signature[0]}{_with_overrides(signature[1])}"):
                prepared = prepare_layer(config, i, context_len, ar_len, recipe, cached=ar_len < context_len)
                layers[signature] = lower_template(prepared, target)
    with progress.stage(f"template epilogue AR-{ar_len}"):
        epilogue = lower_template(prepare_epilogue(Epilogue(small), ar_len, recipe), target)
    for template in (prologue, epilogue):
        resize(template, small.vocab_size, config.vocab_size)
    return Templates(prologue, [layers[signature] for signature in signatures], epilogue)


def _with_overrides(template: tuple) -> str:
    return f" with overrides of {', '.join(points for points, _ in template)}" if template else ""


def with_small_vocabulary(config: DecoderConfig, context_len: int, ar_len: int) -> DecoderConfig:
    """Return a config with a vocabulary that needs little memory. No other size in a template equals its size."""
    taken = {config.hidden_size, context_len, ar_len, *(rope.dims // 2 for rope in config.ropes)}
    return replace(config, vocab_size=next(size for size in itertools.count(97) if size not in taken))
