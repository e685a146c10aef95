"""Programs that are broken, each by one small mutation of a good one."""

import copy
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import torch
from small_program import BLOCK, CONTEXT, TEXT, Good, changed, lower

from hexport.progress import Progress

# Names of tensors in templates of layers.
MASK, CACHES = "input_6_atten_mask@0", ("k_cache_h_", "v_cache_h_")
# Each makes a program of a good one.
MUTATIONS: dict[str, Callable[[Good], bytes]] = {}


def mutation(name: str) -> Callable:
    def register(make: Callable[[Good], bytes]) -> Callable:
        MUTATIONS[name] = make
        return make

    return register


def with_layers(good: Good, **change) -> bytes:
    """Lowered from other parameters of layers."""
    return lower(replace(good, checkpoint=changed(good.checkpoint, **change)))


def with_ops(good: Good, change: Callable, kept: list | None = None) -> bytes:
    """Lowered from layers whose templates have other ops: those that are kept, changed."""
    templates = good.templates[1]
    layer = replace(templates.layers[0], ops=[change(op) for op in kept or templates.layers[0].ops])
    return lower(replace(good, templates={1: replace(templates, layers=[layer] * len(templates.layers))}))


def with_ropes(good: Good, change: Callable) -> bytes:
    """Lowered from a prologue with other rotary angles."""
    from hexport.decoder.rope import TABLES, rope_tables

    templates, constants = good.templates[1], {}
    for i, rope in enumerate(map(change, good.config.ropes)):
        constants |= {f"{name}_{i}": table for name, table in zip(TABLES, rope_tables(rope, CONTEXT), strict=True)}
    prologue = replace(templates.prologue, constants=constants)
    return lower(replace(good, templates={1: replace(templates, prologue=prologue)}))


def with_kinds(good: Good, change: Callable) -> bytes:
    return lower(replace(good, config=replace(good.config, layers=tuple(map(change, good.config.layers)))))


@mutation("KV bits exchanged")
def _(good):
    return lower(good, get_kv_io_bit_width=8)


@mutation("mask inverted")
def _(good):
    def subtracts(op):
        masks = any(tensor.name == MASK for tensor in op.inputs)
        return replace(op, type="ElementWiseSubtract") if masks else op

    return with_ops(good, subtracts)


@mutation("mask off by one")
def _(good):
    """The token's own k and v stand in front of the cache's, and so under the mask of the first slot."""

    def in_front(op):
        appends = op.type == "Concat" and op.inputs[0].name.startswith(CACHES)
        return replace(op, inputs=op.inputs[::-1]) if appends else op

    return with_ops(good, in_front)


@mutation("logits scale of another build")
def _(good):
    return lower(good, get_logits_scale=good.attrs.logits.scale * 1.25)


@mutation("rope factor 8 for 32")
def _(good):
    def change(rope):
        return replace(rope, scaling=replace(rope.scaling, factor=8.0)) if hasattr(rope.scaling, "factor") else rope

    return with_ropes(good, change)


@mutation("rope base of the other layers")
def _(good):
    return with_kinds(good, lambda kind: replace(kind, rope=1 - kind.rope))


@mutation("layers swapped")
def _(good):
    return with_layers(good, source=[0, 2, 1].__getitem__)


@mutation("one layer twice")
def _(good):
    return with_layers(good, source=[0, 0, 2].__getitem__)


@mutation("head zeroed")
def _(good):
    def change(i, parameters):
        output = parameters["attention.o_proj.weight"].clone()
        output[:, 16:32] = 0
        return parameters | ({"attention.o_proj.weight": output} if i == 1 else {})

    return with_layers(good, change=change)


@mutation("window mask forgotten")
def _(good):
    return with_kinds(good, lambda kind: replace(kind, sliding=False))


@mutation("caches of two layers exchanged")
def _(good):
    from hexport.lowering import lower as lowering

    names = lowering.output_names(good.config.n_layers)
    exchanged = {"k_0": "k_1", "k_1": "k_0", "v_0": "v_1", "v_1": "v_0"}
    with mock.patch.object(lowering, "output_names", lambda n: [exchanged.get(name, name) for name in names]):
        return lower(good)


@mutation("k and v exchanged")
def _(good):
    def change(i, parameters):
        k, v = ((f"attention.{name}_proj.weight", f"attention.{name}_proj.bias") for name in "kv")
        exchanged = dict(zip((*k, *v), (*v, *k), strict=True))
        return parameters | {name: parameters[other] for name, other in exchanged.items()}

    return with_layers(good, change=change)


@mutation("bias dropped")
def _(good):
    def change(i, parameters):
        return parameters | {
            name: torch.zeros_like(p) for name, p in parameters.items() if name.endswith("k_proj.bias")
        }

    return with_layers(good, change=change)


@mutation("embedding multiplier dropped")
def _(good):
    other = copy.copy(good.checkpoint)
    other.config = replace(other.config, embedding_scale=1.0)
    return lower(replace(good, checkpoint=other))


@mutation("LongRoPE factors of the wrong length")
def _(good):
    def change(rope):
        scaling = rope.scaling
        if not hasattr(scaling, "long_factor"):
            return rope
        return replace(rope, scaling=replace(scaling, long_factor=scaling.short_factor))

    return with_ropes(good, change)


@mutation("prefill and decode of different quant attrs")
def _(good):
    from hexport.lowering.decoder_graph import DecoderGraph
    from hexport.lowering.plan import Plan
    from hexport.quantization.calibration import calibrate

    other = calibrate(good.checkpoint, [TEXT[20:30]], good.recipe, Progress())

    def graphs(plan, templates, attrs):
        return {
            "kv_forward": DecoderGraph(plan.config, templates[1], attrs),
            "prefill_forward": DecoderGraph(plan.config, templates[BLOCK], other),
        }

    with mock.patch.object(Plan, "graphs", graphs):
        return lower(good, prefill=True)


def rolled(good: Good) -> Good:
    def change(i, parameters):
        return {name: p.roll(1, 0) if p.ndim > 1 else p for name, p in parameters.items()}

    return replace(good, checkpoint=changed(good.checkpoint, change))


@mutation("a shard of another build")
def _(good):
    return lower(good, shards=[good, rolled(good)])


@mutation("weights of another checkpoint")
def _(good):
    return lower(rolled(good))


@mutation("weights of a later checkpoint")
def _(good):
    def change(i, parameters):
        random = torch.Generator().manual_seed(i)
        return {name: p * (1 + 0.02 * torch.randn(p.shape, generator=random)) for name, p in parameters.items()}

    return with_layers(good, change=change)


@mutation("recipe of another bit width")
def _(good):
    def change(i, parameters):
        return {name: to_4_bits(p) if name.endswith("proj.weight") else p for name, p in parameters.items()}

    return with_layers(good, change=change)


def to_4_bits(weight: torch.Tensor) -> torch.Tensor:
    step = weight.abs().amax(dim=1, keepdim=True) / 7
    return (weight / step).round() * step


@mutation("wrong EOS")
def _(good):
    return lower(good, eos=10)


@mutation("qk-norm dropped")
def _(good):
    """What the norms would take goes on as it is, times the scale that is part of the norm's weights."""
    norms = {
        op.outputs[0]: op.inputs[0]
        for op in good.templates[1].layers[0].ops
        if op.type == "RmsNorm" and op.inputs[0].dims[-1] == good.config.head_dim
    }

    def without(op):
        return replace(op, inputs=[norms.get(tensor, tensor) for tensor in op.inputs])

    def change(i, parameters):
        q = ("attention.q_proj.weight", "attention.q_proj.bias")
        return parameters | {name: parameters[name] * good.config.attention_scale for name in q}

    kept = [op for op in good.templates[1].layers[0].ops if op.outputs[0] not in norms]
    return with_ops(replace(good, checkpoint=changed(good.checkpoint, change)), without, kept)


@mutation("exact GELU for tanh")
def _(good):
    """The HTP's own GELU in the place of x * sigmoid(…)."""
    ops = good.templates[1].layers[0].ops
    (sigmoid,) = (op for op in ops if op.type == "Sigmoid")
    (product,) = (op for op in ops if sigmoid.outputs[0] in op.inputs)
    (x,) = (tensor for tensor in product.inputs if tensor is not sigmoid.outputs[0])
    gelu = replace(product, type="Gelu", inputs=[x], scalar_params=[], tensor_params=[])
    left = {id(op) for op in (sigmoid, *_only_for(sigmoid, ops))}
    return with_ops(good, lambda op: gelu if op is product else op, [op for op in ops if id(op) not in left])


def _only_for(op, ops: list) -> list:
    """The ops whose outputs go into this one alone, and what goes into them alone."""
    found, wanted = [], list(op.inputs)
    while wanted:
        tensor = wanted.pop()
        users = [each for each in ops if tensor in each.inputs and each not in found and each is not op]
        maker = next((each for each in ops if tensor in each.outputs), None)
        if maker is not None and not users:
            found.append(maker)
            wanted += maker.inputs
    return found
