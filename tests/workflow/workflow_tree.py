"""A copy of the workflow in a folder of its own, and tiny random checkpoints for it."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forks import FORKS
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

REPOSITORY = Path(__file__).parents[2]
SNAKEMAKE = (sys.executable, "-m", "snakemake")
WORKFLOW = ("Snakefile", "rules", "schemas", "scripts", "profiles")
STAND_IN = """\
import sys
from pathlib import Path

from hexport.provenance import write_manifest

options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
output, settings = Path(options["--output"]), sys.stdin.read()
for file in (output, output.with_name("outputs.txt")):
    file.write_text(settings)
write_manifest(output, script=__file__, inputs={}, params={}, stages={})
"""


def environment() -> dict[str, str]:
    """Without the QNN SDK that other tests of this process have set up: with another one, programs are stale."""
    return {name: value for name, value in os.environ.items() if name != "QNN_SDK_ROOT"}


@dataclass(frozen=True)
class Tree:
    """A folder with the workflow's code, a config and its artifacts."""

    path: Path

    def snakemake(self, *args: str, check: bool = True) -> subprocess.CompletedProcess:
        """As `python -m snakemake` in this folder."""
        done = FORKS.run("-m", "snakemake", *args, cwd=self.path, env=environment())
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def stale(self, *targets: str) -> set[str]:
        """The jobs that `snakemake -n` would run, as `rule model/recipe/…`."""
        return jobs(self.snakemake("-n", *targets).stdout)

    def run(self, *targets: str) -> set[str]:
        """Run, and give the jobs that ran."""
        done = self.snakemake(*targets)
        return jobs(done.stdout + done.stderr)

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.path / file).read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        (self.path / file).write_text(text.replace(old, new))


def jobs(output: str) -> set[str]:
    """The jobs that Snakemake lists, target rules aside."""
    found = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, re.MULTILINE)
    wildcards = [(rule, re.search(r"^    wildcards: (.*)$", text, re.MULTILINE)) for rule, text in found]
    return {f"{rule} {re.sub('[^,]+=', '', match[1]).replace(',', '/')}" for rule, match in wildcards if match}


def template_jobs(model: str, *ar_lens: int, arch: str = "V75", context: int = 32) -> set[str]:
    """The jobs that make templates of these AR lengths, for recipe 16a8w."""
    return {f"lower_templates {model}/16a8w/{context}/{arch}/{ar_len}" for ar_len in ar_lens}


def program_jobs(model: str, target: str, *modes: str, context: int = 32, shards: int = 1) -> set[str]:
    """The jobs that make programs of recipe 16a8w from templates."""
    places = [f"{model}/16a8w/{context}/{target}/{mode}" for mode in modes]
    compiled = {f"compile_shard {place}/{i + 1}/{shards}" for place in places for i in range(shards)}
    return compiled | {f"assemble_program {place}" for place in places}


def copy_workflow(path: Path) -> None:
    for name in WORKFLOW:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, path / name)


def write_checkpoint(folder: Path, seed: int = 0, *, vocabulary: int = 260, hidden: int = 64, layers: int = 2) -> None:
    """A random llama in a Hugging Face folder, with a byte-level tokenizer."""
    folder.mkdir(parents=True)
    heads, kv_heads, feed_forward = 2, 1, 128  # graphs grow with the heads
    head = hidden // heads
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "torch_dtype": "float32",
    }
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        shapes |= {
            f"model.layers.{i}.self_attn.q_proj.weight": (hidden, hidden),
            f"model.layers.{i}.self_attn.k_proj.weight": (kv_heads * head, hidden),
            f"model.layers.{i}.self_attn.v_proj.weight": (kv_heads * head, hidden),
            f"model.layers.{i}.self_attn.o_proj.weight": (hidden, hidden),
            f"model.layers.{i}.mlp.gate_proj.weight": (feed_forward, hidden),
            f"model.layers.{i}.mlp.up_proj.weight": (feed_forward, hidden),
            f"model.layers.{i}.mlp.down_proj.weight": (hidden, feed_forward),
            f"model.layers.{i}.input_layernorm.weight": (hidden,),
            f"model.layers.{i}.post_attention_layernorm.weight": (hidden,),
        }
    random = np.random.default_rng(seed)
    tensors = {
        name: (random.standard_normal(shape, np.float32) * 0.1 if len(shape) == 2 else np.ones(shape, np.float32))
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def stand_in(tree: Tree, *scripts: str) -> None:
    """Put a tool in place of these scripts that writes down its settings, for tests of what runs."""
    for script in scripts:
        (tree.path / "scripts" / script).write_text(STAND_IN)


def _byte_tokenizer() -> Tokenizer:
    """One token per byte, 0 to 255, then <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer
