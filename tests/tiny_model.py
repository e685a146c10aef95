"""The tiny model of these tests, and the scripts that turn it into a program."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forks import FORKS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SCRIPTS = Path(__file__).parents[1] / "scripts"

VOCABULARY = 258  # a token per byte, <s> and </s>
CONTEXT = 16
RECIPE = {"weight_bits": 8, "granularity": "per_channel", "kv_bits": 16, "overrides": []}
EMULATOR = "SM8650-emulator"
# Texts of one token per character, of different lengths.
SAMPLES = ["Once upon a time", "a", "The sea!"]


@dataclass(frozen=True)
class Tiny:
    """Artifacts of the tiny model, where the workflow would have put them."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer" / "tokenizer.json"

    @property
    def tokens(self) -> Path:
        return self.folder / "calibration" / "tokens.json"

    @property
    def quant_attrs(self) -> Path:
        return self.folder / "16a8w" / "quant_attrs.json"

    @property
    def templates(self) -> Path:
        return self.program.parents[1] / "templates" / "V75" / "ar1.json"

    @property
    def shard(self) -> Path:
        return self.program.parent / "shards" / "kv" / "1-of-1.bin"

    @property
    def program(self) -> Path:
        return self.folder / "16a8w" / f"ctx{CONTEXT}" / EMULATOR / "kv_llama_qnn.pte"

    def quantize(self, output: Path, **changes) -> subprocess.CompletedProcess:
        paths = {"checkpoint": self.checkpoint, "tokens": self.tokens, "output": output, "log": log_of(output)}
        settings = {"model": "tiny", "recipe": "16a8w", "recipe_spec": RECIPE}
        return run_script("calibrate.py", settings, {**paths, **changes})

    def lower_templates(self, output: Path, settings: dict | None = None, **changes) -> subprocess.CompletedProcess:
        paths = {"config": self.checkpoint.with_name("config.json"), "output": output, "log": log_of(output)}
        return run_script("lower_templates.py", {**TEMPLATE_SETTINGS, **(settings or {})}, {**paths, **changes})

    def compile_shard(self, output: Path, settings: dict | None = None, **changes) -> subprocess.CompletedProcess:
        paths = {"shard": 1, "checkpoint": self.checkpoint, "quant-attrs": self.quant_attrs}
        paths |= {"templates": self.templates, "output": output, "log": log_of(output)}
        return run_script("compile_shard.py", {**PROGRAM_SETTINGS, **(settings or {})}, {**paths, **changes})

    def assemble_program(self, output: Path, settings: dict | None = None, **changes) -> subprocess.CompletedProcess:
        paths = {"config": self.checkpoint.with_name("config.json"), "quant-attrs": self.quant_attrs}
        paths |= {"tokenizer": self.tokenizer, "templates": self.templates, "shard": self.shard}
        paths |= {"output": output, "log": log_of(output)}
        return run_script("assemble_program.py", {**PROGRAM_SETTINGS, **(settings or {})}, {**paths, **changes})


TEMPLATE_SETTINGS = {
    "arch": "V75",
    "ar_len": 1,
    "max_seq_len": CONTEXT,
    "recipe": "16a8w",
    "recipe_spec": RECIPE,
}
PROGRAM_SETTINGS = {
    "target": EMULATOR,
    "ar_lengths": {"kv_forward": 1},
    "max_seq_len": CONTEXT,
    "num_sharding": 1,
    "recipe": "16a8w",
    "recipe_spec": RECIPE,
}


def log_of(output: Path) -> Path:
    """In a folder of its own, so that a test sees all that a script leaves beside its output."""
    return output.parent.with_name(output.parent.name + ".log") / "log"


def run_script(name: str, settings: dict, options: dict) -> subprocess.CompletedProcess:
    """As a rule of the workflow calls it, in a fork."""
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return FORKS.run(str(SCRIPTS / name), "--settings", "-", *words, env=environment(), input=json.dumps(settings))


def environment() -> dict[str, str]:
    """Without the QNN SDK that this process has set up."""
    return {key: value for key, value in os.environ.items() if key != "QNN_SDK_ROOT"}


def build_tiny(folder: Path) -> None:
    """Write all of `Tiny(folder)` by the real scripts, from a random llama."""
    from hexport.tokenizers.tokenizer import load_tokenizer

    tiny = Tiny(folder)
    save_llama(tiny.checkpoint.parent)
    save_tokenizer(tiny.tokenizer.parent)
    tokenizer = load_tokenizer(tiny.tokenizer.parent)
    samples = [tokenizer.encode(text, bos=True) for text in SAMPLES]
    tiny.tokens.parent.mkdir()
    tokens = {"source": {"prompts": len(samples)}, "samples": samples, "tokens": sum(map(len, samples))}
    tiny.tokens.write_text(json.dumps(tokens))
    run_stages(
        lambda: tiny.quantize(tiny.quant_attrs),
        lambda: tiny.lower_templates(tiny.templates),
        lambda: tiny.compile_shard(tiny.shard),
        lambda: tiny.assemble_program(tiny.program),
    )


def run_stages(*stages: Callable[[], subprocess.CompletedProcess]) -> None:
    """Run one script after the other; each must end well."""
    for stage in stages:
        done = stage()
        assert done.returncode == 0, done.stderr


def save_llama(folder: Path, change: Callable = lambda model: None, **sizes) -> None:
    """A random llama: 2 query heads per KV head, heads wider than the hidden size, untied head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    lengths = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "vocab_size": VOCABULARY}
    ids = {"bos_token_id": 256, "eos_token_id": 257}
    config = LlamaConfig(**{**heads, **lengths, **ids, "rope_theta": 5000.0, "rms_norm_eps": 1e-5, **sizes})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms too, which start as ones
            parameter.add_(torch.randn_like(parameter) * 0.2)
        change(model)
    model.save_pretrained(folder)


def save_tokenizer(folder: Path) -> None:
    """One token per byte, 0 to 255, then <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "stop_tokens": []}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def qdq_logits(converted, config, tokens: list[int]) -> np.ndarray:
    """Logits (n, vocab) of a fake-quantised decoder, of the whole sequence in one call without a cache."""
    import torch
    from plain_flow import decoder_inputs

    with torch.no_grad():
        return converted(*decoder_inputs(config, tokens, len(tokens)))[0][0].numpy()


def sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    """Of the worst row."""
    noise = ((found - expected) ** 2).sum(axis=-1)
    return float(10 * np.log10((expected**2).sum(axis=-1) / np.maximum(noise, 1e-30)).min())
