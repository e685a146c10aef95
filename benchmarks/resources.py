"""Hold what jobs ask for against what they used: the data behind the factors of hexport/build/resources.py.

    python benchmarks/resources.py                    the rows of resources.jsonl
    python benchmarks/resources.py scale.jsonl        those of a run of benchmarks/scale.py too

A row of resources.jsonl is a shard of a random llama that was compiled alone, and the peak memory of the process that
stamps it together with the compiler's; or an evaluation of a model with its first layers and random weights, in windows
of 512 tokens, and its peak. Exits with 1 where a job used more than it asks for, or less than half.
"""

import json
import sys
from pathlib import Path

import click
from scale import ROWS

from hexport.build.artifacts import ProgramKey
from hexport.build.resources import (
    Build,
    build_of,
    calibration_needs,
    fp_needs,
    program_needs,
    qdq_needs,
    shard_needs,
    template_needs,
)
from hexport.config.settings import parse_config
from hexport.decoder.sizes import PUBLISHED, Sizes
from hexport.lowering.shards import Shard
from hexport.quantization.recipe_checks import recipe_from

MEASURED = Path(__file__).with_name("resources.jsonl")
SHARDS = {
    "prologue": lambda n: Shard(True, range(0), False),
    "layers": lambda n: Shard(False, range(n), False),
    "epilogue": lambda n: Shard(False, range(n, n), True),
    "all": lambda n: Shard(True, range(n), True),
}


@click.command(help=__doc__)
@click.argument("scale", type=click.Path(exists=True, path_type=Path), required=False)
def main(scale: Path | None) -> None:
    measured = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    rows = [of_evaluation(row) if "phase" in row else of_shard(row) for row in measured]
    if scale is not None:
        rows += [row for line in scale.read_text().splitlines() for row in of_scale(json.loads(line))]
    print(f"{'':<64}{'asked':>8}{'used':>8}{'ratio':>7}  MB")
    for name, asked, used in rows:
        print(f"{name:<64}{asked:>8}{used:>8}{asked / used:>7.2f}")
    wrong = [name for name, asked, used in rows if not used <= asked <= 2 * used]
    if wrong:
        sys.exit(f"outside of 1 to 2: {', '.join(wrong)}")


def of_shard(row: dict) -> tuple[str, int, int]:
    """Name, MB that are asked for, and MB that were used."""
    head = row["head_dim"]
    sizes = Sizes(
        row["hidden"], row["layers"], row["heads"], row["kv"], head, row["ffn"], row["vocab"], rope_dims=(head,)
    )
    block = {"granularity": "per_block", "block_size": 32} if row["bits"] == 4 else {"granularity": "per_channel"}
    output = {"layers": "epilogue", "points": "output", "weight_bits": 8, "granularity": "per_channel"}
    recipe = recipe_from({"weight_bits": row["bits"], **block, "kv_bits": 8, "overrides": [output]}, "measured")
    build = Build(sizes, recipe, 1024, n_graphs=2 if row["mode"] == "hybrid" else 1, copies=1)
    name = f"{row['part']}, {row['mode']}, {row['layers']} layers of {row['hidden']}, {row['bits']} bits"
    return name, shard_needs(build, SHARDS[row["part"]](row["layers"])).mem_mb, row["used_mb"]


def of_evaluation(row: dict) -> tuple[str, int, int]:
    """As `of_shard`."""
    needs = {"fp": fp_needs, "qdq": qdq_needs}[row["phase"]]
    name = f"evaluation {row['phase']} of {row['model']}, {row['context_len']} tokens"
    return name, needs(PUBLISHED[row["model"]], row["context_len"]).mem_mb, row["used_mb"]


def of_scale(line: dict) -> list[tuple[str, int, int]]:
    """As `of_shard`, of each job of a row of benchmarks/scale.py with all layers."""
    row = ROWS.get(line["row"])
    if row is None:
        return []
    config = parse_config({"models": {row.model: {"prompts": ["x"], "max_seq_len": row.max_seq_len}}}, "scale")
    recipe = config.models[row.model].recipes[0]

    def build(mode: str, target: str) -> Build:
        return build_of(config, ProgramKey(row.model, recipe, row.max_seq_len, target, mode))

    any_build = build(row.modes.partition(",")[0], row.targets.partition(",")[0])
    found = []
    for job in line["jobs"]:
        match job["job"].split():
            case ["shard", which, mode, target]:
                number, count = map(int, which.split("-of-"))
                of_program = build(mode, target)
                asked = shard_needs(of_program, of_program.shards(count)[number - 1])
            case ["templates", _]:
                asked = template_needs(any_build)
            case ["program", mode, target]:
                asked = program_needs(build(mode, target))
            case ["calibrate"]:
                asked = calibration_needs(any_build.sizes)
            case _:
                continue
        found.append((f"{line['row']} {job['job']}", asked.mem_mb, job["peak_mb"]))
    return found


if __name__ == "__main__":
    main()
