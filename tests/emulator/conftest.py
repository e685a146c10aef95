"""A tiny random llama, calibrated and lowered once by the real scripts, and once more in this process."""

import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_model
from tiny_model import CONTEXT, EMULATOR, RECIPE, Tiny, build_tiny, qdq_logits, save_llama

from hexport.file_hashes import sha256


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries():
    """torch.export logs thousands of debug lines, which pytest would collect."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def shared_histories(qnn_sdk):
    """torch gives each node of each new graph a copy of the history of the one it comes from, which nobody changes."""
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda source, memo: source
    yield
    del NodeSource.__deepcopy__


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
    from hexport.lowering.lower import SpecialTokens

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
        from hexport.lowering.target import target_named
        from hexport.progress import Progress

        return (
            checkpoint,
            self.templates(checkpoint, recipe, target_named(EMULATOR), ar_len, CONTEXT, Progress()),
            attrs,
        )

    def program(self, *model, **options) -> bytes:
        """The .pte that `lower` makes for the emulator."""
        return self.lowered(*model, **options).pte

    def lowered(self, checkpoint, attrs, recipe, n_shards: int = 1, prefill: int | None = None, decode: int = 1):
        """What `lower` makes for the emulator, of graphs with these AR lengths."""
        from hexport.lowering.target import target_named
        from hexport.progress import Progress

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.lower, "lower_templates", self.templates)
            lengths = {"kv_forward": decode} | ({"prefill_forward": prefill} if prefill else {})
            model = checkpoint, attrs, recipe, target_named(EMULATOR), lengths, CONTEXT, n_shards
            return self.lower.lower(*model, self.special, Progress())


@pytest.fixture(scope="session")
def lowerings(special, qnn_sdk) -> Lowerings:
    return Lowerings(special)


@pytest.fixture(scope="session")
def model(checkpoint, attrs, recipe) -> tuple:
    """The tiny model's arguments for what lowers it."""
    return checkpoint, attrs, recipe


@contextlib.contextmanager
def new_processes() -> Iterator[None]:
    """Scripts run in these, not in forks, which have all their hashes from one process."""

    def run(program: str, *args: str, env: dict, input: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, program, *args], env=env, input=input, capture_output=True, text=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model.FORKS, "run", run)
        yield


@pytest.fixture(scope="session")
def variants(tiny, keep) -> dict[str, Path]:
    """Programs of lower.py that differ from the tiny model's in what their names say; `again` in nothing."""
    changes = {
        "again": ({}, {}),
        "weight": ({}, {"checkpoint": "nudged/model.safetensors", "quant-attrs": "quant_attrs.json"}),
        "SM8650": ({"target": "SM8650", "emulator": False}, {}),
        "SM8750": ({"target": "SM8750", "soc": "SM8750", "emulator": False, "max_seq_len": 12}, {}),
    }

    def nudge(llama):
        llama.model.layers[2].mlp.up_proj.weight[0, 0] += 1

    def build(folder: Path) -> None:
        save_llama(folder / "nudged", nudge)
        attrs = json.loads(tiny.quant_attrs.read_text())
        attrs["checkpoint_sha256"] = sha256(folder / "nudged" / "model.safetensors")
        (folder / "quant_attrs.json").write_text(json.dumps(attrs))
        for name, (settings, files) in changes.items():
            files = {option: folder / file for option, file in files.items()}
            with new_processes() if name == "again" else contextlib.nullcontext():
                done = tiny.lower(folder / name / "kv_llama_qnn.pte", settings, **files)
            assert done.returncode == 0, done.stderr

    folder = keep("variants", build)
    return {name: folder / name / "kv_llama_qnn.pte" for name in changes}


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
