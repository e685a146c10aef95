"""A decoder graph of one AR length, stamped from templates."""

from collections.abc import Callable
from dataclasses import dataclass

from hexport.decoder.weights import Checkpoint, load_prologue
from hexport.lowering.recording import Op, Tensor
from hexport.lowering.stamping import Place, Wire, program_input, stamp
from hexport.lowering.target import Target
from hexport.lowering.template import Template, lower_template
from hexport.progress import Progress
from hexport.quantization.calibration import MASK, prepare_epilogue, prepare_layer, prepare_prologue
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe

FIRST_CACHE_INPUT = 3  # after tokens, atten_mask and input_pos


@dataclass
class Templates:
    context_len: int
    prologue: Template
    layers: dict[str, Template]  # by layer signature
    epilogue: Template


def lower_templates(
    checkpoint: Checkpoint, recipe: Recipe, target: Target, ar_len: int, context_len: int, progress: Progress
) -> Templates:
    """Lower the prologue, the epilogue and one layer of each signature."""
    config = checkpoint.config
    with progress.stage(f"template prologue AR-{ar_len}"):
        prologue = lower_template(prepare_prologue(checkpoint, context_len, ar_len, recipe), target)
    layers: dict[str, Template] = {}
    for i in range(config.n_layers):
        signature = config.layer_signature(i)
        if signature not in layers:
            with progress.stage(f"template layer AR-{ar_len} {signature}"):
                prepared = prepare_layer(checkpoint, i, context_len, ar_len, recipe)
                layers[signature] = lower_template(prepared, target)
    with progress.stage(f"template epilogue AR-{ar_len}"):
        epilogue = lower_template(prepare_epilogue(checkpoint, ar_len, recipe), target)
    return Templates(context_len, prologue, layers, epilogue)


def stamp_decoder(
    checkpoint: Checkpoint, templates: Templates, attrs: QuantAttrs, progress: Progress, emit: Callable[[Op], None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Stamp the whole decoder, handing its ops to `emit` one by one; weights are read and quantised layer by layer.

    Returns the program's inputs and outputs in the order of the runner.
    """
    config = checkpoint.config
    n = config.n_layers
    some_layer = templates.layers[config.layer_signature(0)]
    tokens = program_input(templates.prologue, "tokens", 0, None)
    mask = program_input(some_layer, MASK, 1, attrs.mask)
    positions = program_input(templates.prologue, "input_pos", 2, None)

    def emit_stamp(template: Template, place: Place, outputs: dict[int, str]) -> list[Wire]:
        ops, wires = stamp(template, place, outputs)
        for op in ops:
            emit(op)
        return wires

    prologue = load_prologue(checkpoint, templates.context_len)
    tables = {**dict(prologue.named_parameters()), **dict(prologue.named_buffers())}
    embed = Place("prologue", attrs, tables, {"tokens": Wire(tokens), "input_pos": Wire(positions)})
    hidden, cos, sin = emit_stamp(templates.prologue, embed, {})
    caches: list[Tensor] = []
    new_caches: list[Tensor] = []
    for i in progress.steps(range(n), "stamp", n):
        template = templates.layers[config.layer_signature(i)]
        k = program_input(template, "k_cache", FIRST_CACHE_INPUT + i, attrs.kv[i]["k"])
        v = program_input(template, "v_cache", FIRST_CACHE_INPUT + n + i, attrs.kv[i]["v"])
        inputs = {
            "hidden": hidden,
            "rope_cos": cos,
            "rope_sin": sin,
            MASK: Wire(mask, MASK),
            "k_cache": Wire(k, f"layers.{i}.k_cache"),
            "v_cache": Wire(v, f"layers.{i}.v_cache"),
        }
        layer = Place(f"layers.{i}", attrs, checkpoint.layer_parameters(i), inputs)
        hidden, new_k, new_v = emit_stamp(template, layer, {1: f"k_{i}", 2: f"v_{i}"})
        caches += [k, v]
        new_caches += [new_k.tensor, new_v.tensor]
    project = Place("epilogue", attrs, checkpoint.epilogue_parameters(), {"hidden": hidden})
    (logits,) = emit_stamp(templates.epilogue, project, {0: "logits"})
    inputs = [tokens, mask, positions, *caches[0::2], *caches[1::2]]
    return inputs, [logits.tensor, *new_caches[0::2], *new_caches[1::2]]
