"""A small model that has many features, and what its programs are lowered from."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from small_models import FULL, SLIDING, longrope, random_model
from tiny_model import EMULATOR, RECIPE, VOCABULARY

from hexport.progress import Progress

CONTEXT, BLOCK = 32, 8
# Both kinds of layers and of rope, each scaled, a window, norms per head, biases, an activation and an embedding of its
# own.
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODEL = {
    "head_dim": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "query_pre_attn_scalar": 16,
    "attention_bias": True,
    "sliding_window": 5,
    "layer_types": [FULL, SLIDING, FULL],
    "rope_parameters": {
        FULL: {**LLAMA3, "rope_theta": 1000.0, "original_max_position_embeddings": 16},
        SLIDING: longrope(8),
    },
    "tie_word_embeddings": False,
}
TEXT = list(b"Once upon a time, the sea was blue, and so was the sky above it.")


@dataclass(frozen=True)
class Good:
    """What a program is lowered from. templates: by AR length. config: how the graph is wired."""

    checkpoint: object
    attrs: object
    recipe: object
    templates: dict
    config: object


def good(folder: Path, templates_of: Callable) -> Good:
    """A small model in `folder`, and what its programs are lowered from. templates_of: (config, recipe, AR length)."""
    from hexport.decoder.weights import Checkpoint
    from hexport.quantization.calibration import calibrate
    from hexport.quantization.recipe_checks import recipe_from

    model = random_model("gemma3_text", **MODEL)
    for name, weight in model.named_parameters():
        if name.endswith("post_feedforward_layernorm.weight"):
            weight.mul_(16)  # what the feed-forward adds decides, so that kinds of GELU differ
        if weight.ndim == 2:  # rounded so that 8 bits hold it
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            weight.copy_((weight / step).round() * step)
    model.save_pretrained(folder)
    checkpoint, recipe = Checkpoint(folder), recipe_from(RECIPE, "16a8w")
    attrs = calibrate(checkpoint, SAMPLES, recipe, Progress())
    templates = {n: templates_of(checkpoint.config, recipe, n) for n in (1, BLOCK)}
    return Good(checkpoint, attrs, recipe, templates, checkpoint.config)


SAMPLES = [TEXT[:CONTEXT], TEXT[CONTEXT:]]


def changed(checkpoint, change: Callable = lambda i, parameters: parameters, source=lambda i: i, config=None):
    """A checkpoint that gives other parameters. change: of the number of a layer and its parameters."""
    other = copy.copy(checkpoint)
    other.config = config or checkpoint.config
    original = other.layer_parameters
    other.layer_parameters = lambda i: change(i, original(source(i)))
    return other


def lower(
    good: Good,
    prefill: bool = False,
    shards: list[Good] | None = None,
    eos: int = 257,
    target: str = EMULATOR,
    **constants,
) -> bytes:
    """The .pte. shards: what each is compiled from. constants: constant methods that are others."""
    from hexport.lowering import lower as lowering
    from hexport.lowering.constant_methods import SpecialTokens
    from hexport.lowering.plan import Plan
    from hexport.targets.target import target_named

    lengths, shards = {"kv_forward": 1} | ({"prefill_forward": BLOCK} if prefill else {}), shards or [good]
    plan = Plan(good.config, good.recipe, target_named(target), lengths, CONTEXT, len(shards))
    special, original = SpecialTokens(256, eos), lowering.constant_methods
    with TemporaryDirectory() as folder:
        binaries = [Path(folder) / f"{i}.bin" for i in range(len(shards))]
        for i, (of, binary) in enumerate(zip(shards, binaries, strict=True)):
            lowering.compile_shard(plan, i, of.checkpoint, of.attrs, of.templates, binary, Progress())
        output = Path(folder) / "program.pte"
        with mock.patch.object(lowering, "constant_methods", lambda *a: original(*a) | constants):
            lowering.assemble_program(plan, good.attrs, good.templates, binaries, special, output, Progress())
        return output.read_bytes()


def with_manifest(program: bytes, good: Good, folder: Path, name: str, target: str = EMULATOR, **params) -> Path:
    """The program in `folder` as hexport's artifacts have it, with its quant attrs and its manifest."""
    from hexport.code_digest import SCRIPTS
    from hexport.file_hashes import sha256
    from hexport.provenance import write_manifest
    from hexport.quantization.quant_attrs import save_quant_attrs

    path, attrs = folder / "16a8w" / f"ctx{CONTEXT}" / target / f"{name}.pte", folder / "16a8w" / "quant_attrs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program)
    names = {"model": "small", "recipe": "16a8w", "checkpoint": sha256(good.checkpoint.path)}
    save_quant_attrs(attrs, good.attrs, **names, calibration={})
    settings = {"recipe": "16a8w", "recipe_spec": RECIPE, "target": target, **params}
    inputs = {"quant_attrs.json": sha256(attrs)}
    write_manifest(path, script=SCRIPTS / "assemble_program.py", inputs=inputs, params=settings, stages={})
    return path
