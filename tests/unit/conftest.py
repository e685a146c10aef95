"""Runs a script's command in this process, as the rules call it; small random models, saved once."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory) -> Path:
    """A program of a decode and a prefill graph that runs on ExecuTorch's own kernels. Never changed."""
    from portable_programs import AR, save_hybrid

    return save_hybrid(tmp_path_factory.mktemp("programs") / "hybrid.pte", AR)


@pytest.fixture
def run_script() -> Callable[..., None]:
    """`run_script(main, settings, source=path, output=path)`: asserts success."""

    def run(main: click.Command, settings: dict, **paths: Path) -> None:
        result = _invoke(main, settings, paths)
        assert result.exit_code == 0, result.output

    return run


@pytest.fixture
def script_error() -> Callable[..., str]:
    """Like `run_script`, but asserts failure in one line and no output; gives the line."""

    def run(main: click.Command, settings: dict, **paths: Path) -> str:
        result = _invoke(main, settings, paths)
        assert result.exit_code == 1, result.output
        *progress, line = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert all(said.endswith((" …", " MB")) for said in progress)
        folder = paths["output"].parent
        assert not folder.exists() or not any(folder.iterdir())
        return line

    return run


def _invoke(main: click.Command, settings: dict, paths: dict[str, Path]):
    options = [option for name, path in paths.items() for option in (f"--{name}", str(path))]
    return CliRunner().invoke(main, ["--settings", "-", *options], input=json.dumps(settings), catch_exceptions=False)


@pytest.fixture
def output(tmp_path) -> Path:
    """Where a canonical checkpoint goes."""
    return tmp_path / "checkpoint" / "model.safetensors"


@pytest.fixture
def tiny_llama() -> Callable:
    """`tiny_llama(**config changes)`: a random LlamaForCausalLM, grouped heads wider than the hidden size."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(**changes) -> LlamaForCausalLM:
        sizes = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 160}
        heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32}
        config = LlamaConfig(**{**sizes, **heads, "rope_theta": 5000.0, "rms_norm_eps": 1e-4, **changes})
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # norms and biases too, which start as ones and zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return model

    return build


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Callable:
    """`small_model(name)`: one of `small_models.MODELS`, and the folder where it is saved."""
    from small_models import MODELS, random_model

    @functools.cache
    def saved(name: str) -> tuple:
        model_type, changes = MODELS[name]
        model, folder = random_model(model_type, **changes), tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        return model, folder

    return saved
