"""What a cluster costs and brings: a matrix of small programs on a Slurm of one node, against the same built without.

    python benchmarks/cluster.py                         12 models in three modes for four SoCs, three times, for hours
    python benchmarks/cluster.py --only smollm2_135m     one of them, for a quarter of an hour

The models have heads of their published size, but two of them and two layers, and random weights. They are built by
Slurm on one core, by Slurm on all, and locally on all. All programs must be equal. Slurm's daemons are this machine's
own (tests/workflow/slurm/one_node.py), so it needs root, and Debian's packages of Slurm.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from random_checkpoint import MODELS, cut_config, published_config, write_random_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "tests" / "workflow" / "slurm"))

from one_node import PARTITION, one_node, why_not  # noqa: E402

from hexport.file_hashes import sha256  # noqa: E402

SOCS = ["SM8550", "SM8650", "SM8750", "SM8850"]  # of V73, V75, V79 and V81
LAYERS, HEADS, VOCABULARY = 2, 2, 258
MEMORY_MB = 16_000
LOCAL = ("--profile", str(REPOSITORY / "profiles" / "default"))
SLURM = (
    *("--workflow-profile", str(REPOSITORY / "profiles" / "slurm"), "--default-resources"),
    *(f"slurm_partition={PARTITION}", "slurm_account=any_account", "mem_mb=1000", "runtime=10"),
    *("--max-threads", "1", "--latency-wait", "5", "--seconds-between-status-checks", "1"),
    *("--slurm-init-seconds-before-status-checks", "3"),
)
SUBMITTED = "has been submitted with SLURM jobid"


@dataclass(frozen=True)
class Build:
    """One of the builds: its wall seconds, Slurm's jobs, and the SHA-256 of each program by its path."""

    name: str
    seconds: float
    jobs: int
    programs: dict[str, str]


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(MODELS), multiple=True, help="models to build; default: all")
def main(only: tuple[str, ...]) -> None:
    if reason := why_not():
        sys.exit(f"benchmark: {reason}")
    with tempfile.TemporaryDirectory(prefix="hexport-cluster-") as scratch:
        folder, names = Path(scratch), list(only or MODELS)
        for name in names:
            write_random_checkpoint(folder / "published" / name, small_config(name))
        built = [on_slurm(folder, names, cores) for cores in (1, os.cpu_count())]
        built.append(build("local", folder, names, *LOCAL, environment=dict(os.environ)))
    print_table(built)


def small_config(model: str) -> dict:
    """The config.json of a built-in model with the published head size, and little else."""
    config = cut_config(published_config(model), LAYERS)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    width = HEADS * head_dim
    return config | {
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": head_dim,
        "hidden_size": width,
        "intermediate_size": config["intermediate_size"] * width // config["hidden_size"] // 64 * 64,
        "vocab_size": VOCABULARY,
        **{"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": None},
    }


def on_slurm(folder: Path, names: list[str], cores: int) -> Build:
    with one_node(folder / f"slurm-{cores}", cores, MEMORY_MB) as environment:
        return build(f"Slurm, {cores} cores", folder, names, *SLURM, environment=environment)


def build(name: str, folder: Path, names: list[str], *options: str, environment: dict[str, str]) -> Build:
    """Have the workflow make all programs in a folder of its own. Exits where Snakemake fails."""
    place = folder / name.replace(" ", "-")
    place.mkdir()
    (place / "config.yaml").write_text(json.dumps(config_of(folder, names)))  # JSON is YAML
    (place / "build.log").touch()
    start = time.perf_counter()
    with open(place / "build.log", "w") as log:
        command = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile", "export", *options]
        done = subprocess.run(command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    seconds, said = time.perf_counter() - start, (place / "build.log").read_text()
    if done.returncode:
        sys.exit(f"{said}\nbenchmark: {name} failed")
    programs = {str(file.relative_to(place)): sha256(file) for file in place.glob("artifacts/**/*.pte")}
    print(f"{name}: {len(programs)} programs, {seconds:.0f} s", file=sys.stderr, flush=True)
    return Build(name, seconds, said.count(SUBMITTED), programs)


def config_of(folder: Path, names: list[str]) -> dict:
    model = {
        "recipe": "16a8w",
        "calibration": {"prompts": ["The tide turns twice a day, and the harbour with it."]},
        "modes": ["kv", "hybrid", "lookahead"],
        **{"max_seq_len": 128, "prefill_ar_len": 32, "ngram": 3, "window": 8, "gcap": 8},
        "num_sharding": 1,
    }
    published = {name: str(folder / "published" / name) for name in names}
    models = {name: model | {"checkpoint": place, "tokenizer": place} for name, place in published.items()}
    return {"devices": str(REPOSITORY / "devices.yaml"), "socs": SOCS, "models": models}


def print_table(built: list[Build]) -> None:
    """Print a line for each build, and how many programs of Slurm's are equal to the local ones."""
    one, many, local = built
    print(f"{'':<20}{'programs':>10}{'jobs':>8}{'wall s':>10}{'equal':>8}{'times as fast as the first':>30}")
    for each in built:
        equal = sum(local.programs.get(path) == digest for path, digest in each.programs.items())
        ratio = one.seconds / each.seconds
        print(f"{each.name:<20}{len(each.programs):>10}{each.jobs:>8}{each.seconds:>10.0f}{equal:>8}{ratio:>30.2f}")
    per_job = (many.seconds - local.seconds) * os.cpu_count() / many.jobs
    print(f"A job of Slurm's costs {per_job:.1f} s of a core more than the same work costs locally.")


if __name__ == "__main__":
    main()
