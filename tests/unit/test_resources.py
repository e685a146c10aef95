"""What jobs ask for, `num_sharding: auto`, and what is said where the machine is too small; all by published sizes."""

from math import ceil

import pytest

from hexport.build import lowering
from hexport.build.artifacts import ProgramKey
from hexport.build.resources import build_of, cores_for, machine_mb, most_needed, shard_needs, smallest_sharding
from hexport.config.settings import Config, parse_config
from hexport.errors import HexportError
from hexport.lowering.shards import CONTEXT_LIMIT, check_addressable, shard_sums, shards_of

LLAMA = "llama3_2-1b_instruct"


def config(model: str = LLAMA, memory: float | None = None, **entry) -> Config:
    """A model with built-in weights, whose sizes are known as published."""
    entry = {"modes": ["hybrid"], "prompts": ["Once"], **entry}
    recipes = {"wide": {"based_on": "16a8w", "kv_bits": 8}}
    return parse_config({"models": {model: entry}, "recipes": recipes, "build_memory_gb": memory}, "config.yaml")


def program(model: str = LLAMA, mode: str = "hybrid", target: str = "SM8650") -> ProgramKey:
    return ProgramKey(model, config(model).models[model].recipes[0], 1024, target, mode)


@pytest.mark.parametrize("memory", [10, 12, 16, 30])
def test_auto_takes_the_fewest_shards_whose_jobs_fit_in_memory(memory):
    auto = config(memory=memory, num_sharding="auto")
    build, count = build_of(auto, program()), lowering.n_shards(auto, program())
    assert most_needed(build, count) <= memory * 1000
    assert all(most_needed(build, fewer) > memory * 1000 for fewer in range(1, count))
    assert len(lowering.shards(auto, program())) == count


def test_where_no_number_of_shards_fits_auto_takes_those_of_the_largest_part():
    """The embedding of Llama 3.2 1B alone needs 8 to 9 GB where two graphs share it."""
    auto = config(memory=2, num_sharding="auto")
    build = build_of(auto, program())
    alone = most_needed(build, len(build.part_bytes))
    assert alone > 2000
    assert most_needed(build, lowering.n_shards(auto, program())) == alone


def test_auto_heeds_what_the_htp_addresses():
    """Copies of all weights for each graph, since this SoC cannot share them."""
    model = "phi_4_mini"
    auto = config(model, memory=10**5, num_sharding="auto", recipe="wide")
    where = program(model, "hybrid", "SM8450")._replace(recipe="wide")
    build = build_of(auto, where)
    count = smallest_sharding(build, machine_mb(auto))
    assert max(shard_sums(build.stored_bytes, build.shards(count))) <= CONTEXT_LIMIT
    assert max(shard_sums(build.stored_bytes, build.shards(count - 1))) > CONTEXT_LIMIT


def test_auto_needs_sizes():
    unknown = parse_config(
        {"models": {"m": {"checkpoint": "hf://org/x", "num_sharding": "auto", "prompts": ["a"]}}}, "c"
    )
    where = ProgramKey("m", "16a8w", 1024, "SM8650", "kv")
    with pytest.raises(
        HexportError, match=r"^models\.m\.num_sharding: auto needs the sizes .* run `snakemake artifacts/m/"
    ):
        lowering.shards(unknown, where)
    with pytest.raises(FileNotFoundError) as missing:
        build_of(unknown, where)
    assert missing.value.filename == "artifacts/m/checkpoint/config.json"  # by which Snakemake knows it as an input


def test_a_machine_that_is_too_small_is_named_with_what_helps():
    (line,) = lowering.short_of_memory(config(memory=12, num_sharding=1))
    assert line.startswith(f"model {LLAMA}, ")
    assert "hybrid for SM8650: a job may need 2" in line
    assert "there are 12.0; num_sharding: " in line
    (line,) = lowering.short_of_memory(config(memory=4, num_sharding=1))
    assert line.endswith("there are 4.0; use fewer bits, or use a machine with more")
    assert list(lowering.short_of_memory(config(memory=64, num_sharding=1))) == []


def test_graphs_and_weights_cost_memory():
    def needed(mode: str, count: int) -> int:
        return most_needed(build_of(config(), program(mode=mode)), count)

    assert needed("kv", 1) < needed("hybrid", 1)
    assert needed("hybrid", 1) > needed("hybrid", 2) > needed("hybrid", 4)
    build = build_of(config(), program())
    whole, halves = build.shards(1), build.shards(2)
    written = sum(shard_needs(build, shard).disk_mb for shard in halves)
    assert shard_needs(build, whole[0]).disk_mb == pytest.approx(written, abs=60)


def test_a_shard_that_the_htp_cannot_address_is_refused_with_the_smallest_number_that_fits():
    n_bytes = [2 * 10**9, *[10**9] * 6, 10**9]
    check_addressable(n_bytes, shards_of(n_bytes, 3))
    for count in (1, 2):
        with pytest.raises(HexportError, match=rf"^num_sharding {count} makes .* GB, .* use 3 or more$"):
            check_addressable(n_bytes, shards_of(n_bytes, count))
    with pytest.raises(HexportError, match=r"no number of shards helps; use a recipe with fewer bits$"):
        check_addressable([5 * 10**9, 1, 1], shards_of([5 * 10**9, 1, 1], 1))


def test_a_job_gets_the_cores_that_no_other_one_has_memory_for():
    assert [cores_for(mem_mb, 16000, 8) for mem_mb in (1000, 4000, 5000, 9000, 20000)] == [1, 2, 2, 8, 8]


def test_build_memory_is_what_the_machine_has_unless_it_is_set():
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert machine_mb(config()) == pytest.approx(total / 10**6, abs=1)
    assert machine_mb(config(memory=10.5)) == ceil(10500)
