"""A tiny random llama, calibrated and lowered once by the real scripts, and in this process in all other forms."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from lowerings import Lowerings
from tiny_model import CONTEXT, RECIPE, Tiny, build_tiny, qdq_logits, run_stages, save_llama


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries():
    """torch.export logs thousands of debug lines, which pytest would collect."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny(keep) -> Tiny:
    """Built by the real scripts. Its files are never changed."""
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
    from hexport.quantization.recipe_checks import recipe_from

    return recipe_from(RECIPE, "16a8w")


@pytest.fixture(scope="session")
def special():
    from hexport.lowering.constant_methods import SpecialTokens

    return SpecialTokens(bos_id=256, eos_id=257)


@pytest.fixture(scope="session")
def lowerings(special, qnn_sdk) -> Lowerings:
    return Lowerings(special)


@pytest.fixture(scope="session")
def model(checkpoint, attrs, recipe) -> tuple:
    """The tiny model's arguments for what lowers it."""
    return checkpoint, attrs, recipe


@pytest.fixture(scope="session")
def variants(tiny, model, lowerings, keep) -> dict[str, Path]:
    """Programs that differ from the tiny model's in what their names say. `SM8750` is the real scripts'."""
    other = {"target": "SM8750", "max_seq_len": 12}

    def nudge(llama):
        llama.model.layers[2].mlp.up_proj.weight[0, 0] += 1

    def build(folder: Path) -> None:
        from hexport.decoder.weights import Checkpoint

        def path_of(name: str) -> Path:
            return folder / name / "kv_llama_qnn.pte"

        templates, shard, program = folder / "ar1.json", folder / "1-of-1.bin", path_of("SM8750")
        run_stages(
            lambda: tiny.lower_templates(templates, {"arch": "V79", "max_seq_len": 12}),
            lambda: tiny.compile_shard(shard, other, templates=templates),
            lambda: tiny.assemble_program(program, other, templates=templates, shard=shard),
        )
        save_llama(folder / "nudged", nudge)
        lowerings.write(path_of("weight"), Checkpoint(folder / "nudged"), *model[1:])
        lowerings.write(path_of("SM8650"), *model, target="SM8650")

    folder = keep("variants", build)
    return {name: folder / name / "kv_llama_qnn.pte" for name in ("weight", "SM8650", "SM8750")}


@pytest.fixture
def graph(tiny):
    """The tiny model's program on the emulator. Not kept: it ends when another load of the same program does."""
    from hexport.runtime.program import Program

    return Program(tiny.program).graph()


@pytest.fixture(scope="session")
def qdq(model) -> Callable:
    """`qdq(tokens)`: logits (n, vocab) of the plain flow's graph in fake-quantised floats."""
    from plain_flow import convert_decoder

    converted, _ = convert_decoder(*model, CONTEXT)
    return lambda tokens: qdq_logits(converted, model[0].config, tokens)
