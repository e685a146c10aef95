"""A tiny random llama, calibrated and lowered once by the real scripts, and in this process in all other forms."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import CONTEXT, EMULATOR, RECIPE, Tiny, build_tiny, qdq_logits, save_llama


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries():
    """torch.export logs thousands of debug lines, which pytest would collect."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny(keep) -> Tiny:
    """Built by quantize.py and lower.py. Its files are never changed."""
    return Tiny(keep("tiny", build_tiny))


@pytest.fixture(scope="session")
def checkpoint(tiny):
    from hexport.decoder.weights import Checkpoint

    return Checkpoint(tiny.checkpoint.parent)


@pytest.fixture(scope="session")
def attrs(tiny):
    from hexport.quantization.quant_attrs import load_quant_attrs

    return load_quant_attrs(tiny.quant_attrs)


@pytest.fixture(scope="session")
def recipe():
    from hexport.quantization.recipe import recipe_from

    return recipe_from(RECIPE, "16a8w")


@pytest.fixture(scope="session")
def special():
    from hexport.lowering.constant_methods import SpecialTokens

    return SpecialTokens(bos_id=256, eos_id=257)


class Lowerings:
    """Programs of this process. Templates hold no weights, so one per SoC, recipe and context length serves all."""

    def __init__(self, special):
        from hexport.lowering import lower

        self.lower, self.special = lower, special
        self.make_templates, self.made = lower.lower_templates, {}

    def templates(self, checkpoint, recipe, target, ar_len, context_len, progress):
        key = checkpoint.config, recipe, target.soc, ar_len, context_len
        if key not in self.made:
            self.made[key] = self.make_templates(checkpoint, recipe, target, ar_len, context_len, progress)
        return self.made[key]

    def graph_arguments(self, checkpoint, attrs, recipe, ar_len: int = 1) -> tuple:
        """What a `DecoderGraph` for the emulator is made from."""
        from hexport.progress import Progress
        from hexport.targets.target import target_named

        return (
            checkpoint,
            self.templates(checkpoint, recipe, target_named(EMULATOR), ar_len, CONTEXT, Progress()),
            attrs,
        )

    def program(self, *model, **options) -> bytes:
        """The .pte that `lower` makes for the emulator."""
        return self.lowered(*model, **options).pte

    def lowered(
        self,
        checkpoint,
        attrs,
        recipe,
        n_shards: int = 1,
        prefill: int | None = None,
        decode: int = 1,
        context_len: int = CONTEXT,
        target: str = EMULATOR,
    ):
        """What `lower` makes of graphs with these AR lengths."""
        from hexport.progress import Progress
        from hexport.targets.target import target_named

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.lower, "lower_templates", self.templates)
            lengths = {"kv_forward": decode} | ({"prefill_forward": prefill} if prefill else {})
            model = checkpoint, attrs, recipe, target_named(target), lengths, context_len, n_shards
            return self.lower.lower(*model, self.special, Progress())

    def write(self, path: Path, *model, **options) -> None:
        """Write the program, and what its manifest says of its content."""
        lowered = self.lowered(*model, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lowered.pte)
        facts = {"content_sha256": lowered.content_sha256, "graphs": lowered.graphs}
        path.with_name(path.name + ".manifest.json").write_text(json.dumps(facts))


@pytest.fixture(scope="session")
def lowerings(special, qnn_sdk) -> Lowerings:
    return Lowerings(special)


@pytest.fixture(scope="session")
def model(checkpoint, attrs, recipe) -> tuple:
    """The tiny model's arguments for what lowers it."""
    return checkpoint, attrs, recipe


@pytest.fixture(scope="session")
def variants(tiny, model, lowerings, keep) -> dict[str, Path]:
    """Programs that differ from the tiny model's in what their names say. `SM8750` is lower.py's."""
    other = {"target": "SM8750", "soc": "SM8750", "emulator": False, "max_seq_len": 12}

    def nudge(llama):
        llama.model.layers[2].mlp.up_proj.weight[0, 0] += 1

    def build(folder: Path) -> None:
        from hexport.decoder.weights import Checkpoint

        def path_of(name: str) -> Path:
            return folder / name / "kv_llama_qnn.pte"

        done = tiny.lower(path_of("SM8750"), other)
        assert done.returncode == 0, done.stderr
        save_llama(folder / "nudged", nudge)
        lowerings.write(path_of("weight"), Checkpoint(folder / "nudged"), *model[1:])
        lowerings.write(path_of("SM8650"), *model, target="SM8650")

    folder = keep("variants", build)
    return {name: folder / name / "kv_llama_qnn.pte" for name in ("weight", "SM8650", "SM8750")}


@pytest.fixture
def graph(tiny):
    """The program of lower.py on the emulator. Not kept: it ends when another load of the same program does."""
    from hexport.runtime.program import Program

    return Program(tiny.program).graph()


@pytest.fixture(scope="session")
def qdq(model) -> Callable:
    """`qdq(tokens)`: logits (n, vocab) of the plain flow's graph in fake-quantised floats."""
    from hexport.lowering.plain import convert_decoder

    converted, _ = convert_decoder(*model, CONTEXT)
    return lambda tokens: qdq_logits(converted, model[0].config, tokens)
