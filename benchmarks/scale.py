"""What real sizes cost: seconds, memory and program size of every job, from checkpoint to .pte, by the workflow itself.

    make benchmark-scale                                                 all rows, for hours
    python benchmarks/scale.py --only gemma3-1b/hybrid/SM8650            one of them
    python benchmarks/scale.py --only qwen3-0_6b/hybrid/SM8650 --layers 2    with its first layers only, to try it
    python benchmarks/scale.py --print                                   the table of all rows made so far

A row has random weights (benchmarks/random_checkpoint.py), the model's own recipe but for the search of its weights,
and a calibration on four texts of about 200 tokens in all. It is made in a scratch folder, which is removed. Results
are lines of JSON in a file; of two lines for a row, the last counts.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from random_checkpoint import published_config, random_tensors, write_random_checkpoint

from hexport.build import matrix
from hexport.config.settings import built_in_models, parse_config

REPOSITORY = Path(__file__).resolve().parents[1]
PROMPTS = [
    "The tide turns twice a day, and the harbour with it.",
    "A loaf needs flour, water, salt, and a night to rise.",
    "Seven bridges cross the river; six of them are stone.",
    "What is the way to the station, and how far is it?",
]
# In the order of the flow, where the artifacts of a model have them.
JOBS = {
    "checkpoint": "checkpoint/model.safetensors",
    "quantize_weights": "**/weights.safetensors",
    "calibrate": "**/quant_attrs.json",
    "templates": "**/templates/**/*",
    "shard": "**/shards/**/*",
    "program": "**/*.pte",
}
BEFORE_CALIBRATION = ("checkpoint/model.safetensors", "calibration/tokens.json")
BEFORE_LOWERING = ("checkpoint", "quantize_weights", "calibrate")
HEADING = f"""\
Random weights; calibration on four texts of about 200 tokens in all; {os.cpu_count()} cores. Seconds of a job are those
of its stages, without imports. The total is the whole command from quant attrs to program: its wall and CPU seconds,
and the peak of its largest job, with that job's child processes."""
DISK = 5  # times the weights: they are there twice, as are the shards, which may have a copy for each graph


@dataclass(frozen=True)
class Row:
    """Programs of a model that one command makes, in each of the modes for each of the targets of a SoC.

    modes, targets: names, with commas between them.
    """

    model: str
    modes: str
    targets: str = "SM8650"
    max_seq_len: int = 1024
    prefill_ar_len: int = 128
    num_sharding: int | str = 1
    build_memory_gb: float | None = None

    @property
    def name(self) -> str:
        shards = f"/{self.num_sharding}-shards" if self.num_sharding != 1 else ""
        return f"{self.model}/{self.modes}/{self.targets}{shards}"


# Each program alone, and all of them together, which share templates.
SMOLLM2 = [
    Row("smollm2_135m", modes, targets, max_seq_len=512)
    for targets in ("SM8650", "SM8650-emulator", "SM8650,SM8650-emulator")
    for modes in ("kv", "hybrid", "lookahead", "kv,hybrid,lookahead")
    if ("," in targets) == ("," in modes)
]
ROWS = {
    row.name: row
    for row in (
        *SMOLLM2,
        Row("smollm2_135m", "hybrid", max_seq_len=512, num_sharding=2),
        Row("llama3_2-1b_instruct", "hybrid"),
        *(
            Row(model, mode, num_sharding="auto", build_memory_gb=10)
            for model, mode in (
                ("llama3_2-1b_instruct", "hybrid"),
                ("qwen3-0_6b", "hybrid"),
                ("gemma3-1b", "hybrid"),
                ("llama3_2-3b_instruct", "kv"),
                ("smollm3-3b", "kv"),
                ("phi_4_mini", "kv"),
            )
        ),
    )
}


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(ROWS)), multiple=True, help="rows to make; default: all")
@click.option("--print", "only_print", is_flag=True, help="make none, print those made so far")
@click.option("--layers", type=click.IntRange(min=1), help="only the first layers of each model")
@click.option("--searched", is_flag=True, help="with SeqMSE and GPTQ, where the model's recipe has them")
@click.option("--results", type=click.Path(path_type=Path), default="scale.jsonl", show_default=True)
@click.option("--scratch", type=click.Path(exists=True), help="where to put the files; default: the temporary folder")
def main(
    only: tuple[str, ...], only_print: bool, layers: int | None, searched: bool, results: Path, scratch: str | None
) -> None:
    failed = []
    for name in () if only_print else only or ROWS:
        with tempfile.TemporaryDirectory(dir=scratch, prefix="hexport-scale-") as folder:
            try:
                result = made(ROWS[name], layers, searched, Path(folder))
            except subprocess.CalledProcessError:  # Snakemake has said why
                failed.append(name)
                continue
        with open(results, "a") as file:
            file.write(json.dumps(result) + "\n")
    print_table(results)
    if failed:
        sys.exit(f"benchmark: {', '.join(failed)} failed")


def made(row: Row, layers: int | None, searched: bool, folder: Path) -> dict:
    """Make a row in an empty folder: its line of the results.

    Raises subprocess.CalledProcessError where Snakemake fails.
    """
    config = published_config(row.model, layers)
    size = sum(tensor.nbytes for tensor in random_tensors(config))
    if shutil.disk_usage(folder).free < DISK * size:
        sys.exit(f"{folder.parent}: {DISK * size / 1e9:.0f} GB are needed; name another folder with --scratch")
    write_random_checkpoint(folder / "published", config)
    build = config_of(row, folder / "published", searched)
    (folder / "config.json").write_text(json.dumps(build))  # JSON is YAML
    quant_attrs, programs = targets(row, build)
    snakemake(folder, *(f"artifacts/{row.model}/{file}" for file in BEFORE_CALIBRATION))
    calibration, lowering = snakemake(folder, quant_attrs), snakemake(folder, *programs)
    return {
        "row": row.name + (f", {layers} layers" if layers else "") + (", weights searched" if searched else ""),
        "max_seq_len": row.max_seq_len,
        "prefill_ar_len": row.prefill_ar_len,
        "calibration": calibration,
        "lowering": lowering,
        "program_mb": round(sum((folder / program).stat().st_size for program in programs) / 1e6, 1),
        "jobs": jobs(folder / "artifacts" / row.model),
    }


def config_of(row: Row, checkpoint: Path, searched: bool) -> dict:
    """The content of a config.yaml for a row."""
    own = built_in_models()[row.model]["recipe"]
    return {
        "devices": str(REPOSITORY / "devices.yaml"),
        "build_memory_gb": row.build_memory_gb,
        "socs": [row.targets.partition(",")[0].removesuffix("-emulator")],
        "recipes": {"not_searched": {"based_on": own, "seq_mse": 0, "gptq": False, "tune_scales": 0}},
        "models": {
            row.model: {
                "checkpoint": str(checkpoint),
                "recipe": own if searched else "not_searched",
                "modes": row.modes.split(","),
                "max_seq_len": row.max_seq_len,
                "prefill_ar_len": row.prefill_ar_len,
                "num_sharding": row.num_sharding,
                "calibration": {"prompts": PROMPTS},
            }
        },
    }


def targets(row: Row, document: dict) -> tuple[str, list[str]]:
    """The paths of a row's quant attrs and of its programs."""
    build = parse_config(document, "config.json")
    (soc,), (quant_attrs,), programs = build.socs, matrix.quant_attrs(build), matrix.programs(build)
    named = [path.replace(f"/{soc}/", f"/{target}/") for target in row.targets.split(",") for path in programs]
    return quant_attrs, named


def snakemake(folder: Path, *paths: str) -> dict[str, float]:
    """Have the workflow make files in a folder. Returns wall and CPU seconds of it and of all its jobs."""
    options = ("--snakefile", REPOSITORY / "Snakefile", "--profile", REPOSITORY / "profiles" / "default")
    command = [sys.executable, "-m", "snakemake", *options, "--config", "file=config.json", "--", *paths]
    start, before = time.perf_counter(), cpu_seconds()
    subprocess.run(command, cwd=folder, stdout=sys.stderr, check=True)
    return {"wall_s": round(time.perf_counter() - start, 1), "cpu_s": round(cpu_seconds() - before, 1)}


def cpu_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def jobs(model: Path) -> list[dict]:
    """Name, seconds, peak memory in MB and stages of every job that made an artifact of a model, from its manifest."""
    found = []
    for kind, pattern in JOBS.items():
        for manifest in sorted(model.glob(f"{pattern}.manifest.json")):
            stages = json.loads(manifest.read_text())["stages"]
            seconds = round(sum(stage["seconds"] for stage in stages.values()), 1)
            peak_mb = max(stage["peak_rss_mb"] for stage in stages.values())
            name = name_of(kind, manifest.relative_to(model).parts)
            found.append({"job": name, "seconds": seconds, "peak_mb": peak_mb, "stages": stages})
    return found


def name_of(kind: str, parts: tuple[str, ...]) -> str:
    """What a job made, by the parts of the path of its manifest: `shard 1-of-1 hybrid SM8650`."""
    file = parts[-1].split(".")[0]
    match kind:
        case "templates":
            return f"{kind} {file}"
        case "shard":
            return f"{kind} {file} {parts[-2]} {parts[-4]}"
        case "program":
            return f"{kind} {file.removesuffix('_llama_qnn')} {parts[-2]}"
    return kind


def print_table(results: Path) -> None:
    """Print all rows of the results: a line for each job, and the total."""
    lines = map(json.loads, results.read_text().splitlines()) if results.exists() else []
    print(HEADING)
    for result in {line["row"]: line for line in lines}.values():
        print(f"\n{result['row']}, max_seq_len {result['max_seq_len']}, prefill_ar_len {result['prefill_ar_len']}")
        print(f"{'':<44}{'s':>10}{'CPU s':>10}{'peak MB':>10}{'program MB':>12}")
        for job in result["jobs"]:
            print(f"{job['job']:<44}{job['seconds']:>10.1f}{'':>10}{job['peak_mb']:>10}")
        peak = max(job["peak_mb"] for job in result["jobs"] if job["job"] not in BEFORE_LOWERING)
        print(f"{'calibration, whole command':<44}{cost_columns(result['calibration'])}")
        print(f"{'total':<44}{cost_columns(result['lowering'])}{peak:>10}{result['program_mb']:>12.1f}")


def cost_columns(cost: dict[str, float]) -> str:
    return f"{cost['wall_s']:>10.1f}{cost['cpu_s']:>10.1f}"


if __name__ == "__main__":
    main()
