"""This module computes what jobs need from the sizes of their model: memory, disk space and time.

The factors are fits of measurements (benchmarks/resources.py has the data, and holds the estimates against them), with
room above the largest, so that a job does not need more than it asks for.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from hexport.build.artifacts import ProgramKey, checkpoint_config_file
from hexport.build.program_size import known_sizes
from hexport.config.ready_programs import ready_program
from hexport.config.settings import Config
from hexport.decoder.sizes import Sizes
from hexport.errors import HexportError
from hexport.lowering.shards import CONTEXT_LIMIT, Shard, shard_sums, shards_of
from hexport.programs.abi import ar_lengths_of
from hexport.quantization.part_sizes import part_bytes, part_codes, part_values
from hexport.quantization.recipe import EPILOGUE, Recipe, projections_of
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.target import target_named

MB = 10**6
PYTHON_MB = 480  # a process with torch and executorch
COMPILER_MB = 390  # the compiler's process without any weights
# Bytes that the compiler takes for a byte of codes, by the number of graphs that it compiles at once: for the
# embedding, and for projections by the bits of their weights, which are a byte each in memory.
EMBEDDED = {1: 5.2, 2: 15.7}
PROJECTED = {1: {4: 5.5, 8: 7.0}, 2: {4: 10.0, 8: 13.7}}
EMULATED = 2.9  # bytes that the emulator takes for a byte of a program
TEMPLATE = 24  # bytes that a template takes for a weight of its layer
CALIBRATED = 14  # bytes that calibration takes for a weight of a layer


class SizesNotKnown(FileNotFoundError):
    """This error says that the canonical config.json is not there yet. By the file's name in it, Snakemake knows that
    it has to ask again later."""


@dataclass(frozen=True)
class Needs:
    """Needs are what a job asks for: mem_mb and disk_mb in megabytes, and runtime in minutes on two cores."""

    mem_mb: int
    disk_mb: int
    runtime: int


@dataclass(frozen=True)
class Build:
    """A build holds what the needs of a program's jobs follow from. `n_graphs` is how many graphs the compiler gets at
    once. `copies` is how often the program stores its weights: once per graph, where its graphs cannot share them."""

    sizes: Sizes
    recipe: Recipe
    context_len: int
    n_graphs: int
    copies: int

    @property
    def part_bytes(self) -> list[int]:
        """Return the bytes of the prologue, of each layer and of the epilogue, each stored once."""
        return _part_bytes(self)

    @property
    def stored_bytes(self) -> list[int]:
        """Return the bytes of these parts with all their copies."""
        return [self.copies * size for size in self.part_bytes]

    def shards(self, count: int) -> list[Shard]:
        """Return the parts, dealt out to so many shards. Raises HexportError where there are fewer parts
        than shards."""
        return _shards(self, count)


@lru_cache(maxsize=10000)  # of equal builds, of which a large matrix makes thousands
def _part_bytes(build: Build) -> list[int]:
    return part_bytes(build.recipe, build.sizes, build.context_len)


@lru_cache(maxsize=10000)
def _shards(build: Build, count: int) -> list[Shard]:
    return shards_of(build.part_bytes, count)


def build_of(config: Config, program: ProgramKey) -> Build:
    """Return what the needs of a program's jobs follow from. Raises SizesNotKnown, with the name of the canonical
    config.json, where the model's sizes are not known yet."""
    spec, target = config.models[program.model], target_named(program.target)
    n_graphs = len(ar_lengths_of(program.mode, spec.sizes(program.context_length)))
    recipe = recipe_from(config.recipes[program.recipe], program.recipe)
    sizes = sizes_for(config, program.model)
    return Build(recipe.basis.of(sizes), recipe, program.context_length, n_graphs, target.copies(n_graphs))


def sizes_for(config: Config, model: str) -> Sizes:
    """Return the sizes of a model. Raises SizesNotKnown as `build_of` does."""
    try:
        return known_sizes(config, config.models[model])[0]
    except HexportError:
        raise SizesNotKnown(0, "not yet there", checkpoint_config_file(config.copies, model)) from None


def machine_mb(config: Config) -> int:
    """Return the megabytes of memory that all jobs may need at one time: `build_memory_gb`, or what the machine has."""
    if config.build_memory_gb is not None:
        return round(config.build_memory_gb * 1000)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MB


def cores_for(mem_mb: int, machine_mb: int, cores: int) -> int:
    """Return how many cores each job of this size takes, at least one: as many jobs as fit in memory share
    all cores."""
    return max(1, cores // max(1, machine_mb // mem_mb))


@lru_cache(maxsize=10000)
def shard_needs(build: Build, shard: Shard) -> Needs:
    """Return the needs of the job that stamps and compiles a shard."""
    codes, values = part_codes(build.recipe, build.sizes), part_values(build.sizes)
    parts = _parts(shard, len(codes))
    compiled = COMPILER_MB + sum(_compiled_bytes(build, i) for i in parts) / MB
    # While a part is quantised, its float weights lie beside all codes; they are gone when the compiler needs most.
    stamped = PYTHON_MB + (sum(codes[i] for i in parts) + 8 * max(values[i] for i in parts)) / MB
    written = build.copies * sum(build.part_bytes[i] for i in parts) / MB
    minutes = (20 + sum(codes[i] for i in parts) / MB * (0.2 + 0.2 * build.n_graphs)) / 60
    return Needs(ceil(max(stamped, PYTHON_MB + compiled)), ceil(1.1 * written) + 50, 5 + ceil(2 * minutes))


def calibration_needs(sizes: Sizes) -> Needs:
    """Return the needs of the job that calibrates, which holds a layer."""
    mem_mb = 1450 + CALIBRATED * part_values(sizes)[1] / MB
    return Needs(ceil(mem_mb), 100, 30 + ceil(sum(part_values(sizes)) / 5e7))


def weights_needs(config: Config, model: str, recipe: str) -> Needs:
    """Return the needs of the job that codes weights by calibration data. Raises SizesNotKnown as `build_of` does.

    The job holds a layer, products of the inputs of its projections and, of the widest one, what GPTQ makes of them;
    and it writes each code twice. To tune scales, it holds all codes, and the head twice.
    """
    sizes, passes = sizes_for(config, model), recipe_from(config.recipes[recipe], recipe).tune_scales
    calibration, widest = calibration_needs(sizes), max(n_in for n_in, _ in sizes.projections.values())
    mem_mb, runtime = calibration.mem_mb + 28 * widest**2 / MB, 2 * calibration.runtime
    if passes:
        mem_mb += (sum(part_values(sizes)) + 8 * sizes.vocab_size * sizes.hidden_size) / MB
        runtime += passes * calibration.runtime
    return Needs(ceil(mem_mb), 100 + ceil(2.2 * sum(part_values(sizes)) / MB), runtime)


def fp_needs(sizes: Sizes, context_len: int) -> Needs:
    """Return the needs of the job that scores windows of the context length by the float model. It holds the head, and
    logits."""
    head_mb, logits_mb = _head_and_logits_mb(sizes, context_len)
    return Needs(ceil(400 + 1.35 * head_mb + 1.8 * logits_mb), 100, 2 * calibration_needs(sizes).runtime)


def qdq_needs(sizes: Sizes, context_len: int) -> Needs:
    """Return the needs of the job that compares the fake-quantised model with the float one. It holds both heads, and a
    layer."""
    head_mb, logits_mb = _head_and_logits_mb(sizes, context_len)
    mem_mb = 800 + 2.1 * head_mb + CALIBRATED * part_values(sizes)[1] / MB + 1.3 * logits_mb
    return Needs(ceil(mem_mb), 100, 2 * calibration_needs(sizes).runtime)


def _head_and_logits_mb(sizes: Sizes, context_len: int) -> tuple[float, float]:
    """Return the megabytes of the output projection and of the logits of a window, in float32."""
    return 4 * sizes.vocab_size * sizes.hidden_size / MB, 4 * sizes.vocab_size * context_len / MB


@lru_cache(maxsize=10000)
def _compiled_bytes(build: Build, part: int) -> float:
    """Return the bytes that the compiler takes for a part: 0 is the prologue, then come the layers and the epilogue."""
    if part == 0:
        return EMBEDDED[build.n_graphs] * part_codes(build.recipe, build.sizes)[0]
    place = EPILOGUE if part == len(build.part_bytes) - 1 else str(part - 1)
    factors = PROJECTED[build.n_graphs]
    return sum(
        factors[build.recipe.at(place, name).weight_bits] * n_in * n_out
        for name, (n_in, n_out) in build.sizes.projections.items()
        if name in projections_of(place)
    )


def template_needs(build: Build) -> Needs:
    """Return the needs of the job that makes the templates of one AR length."""
    layer = part_values(build.sizes)[1]
    kinds = len({build.recipe.template_of(i) for i in range(build.sizes.n_layers)})
    return Needs(ceil(PYTHON_MB + 100 + TEMPLATE * layer / MB), 20, 5 + kinds)


def program_needs(build: Build) -> Needs:
    """Return the needs of the job that writes the program from its shards."""
    written = build.copies * sum(build.part_bytes) / MB
    return Needs(PYTHON_MB + 300, ceil(1.1 * written) + 50, 5 + ceil(written / 3000))


def run_needs(config: Config, program: ProgramKey) -> Needs:
    """Return the needs of the job that runs a program on the emulator. Raises HexportError where a model's ready
    programs lack its mode, and SizesNotKnown as `build_of` does."""
    if folder := config.models[program.model].pre_gen_pte:
        written = os.stat(ready_program(folder, program.mode)).st_size / MB
    else:
        build = build_of(config, program)
        written = build.copies * sum(build.part_bytes) / MB
    return Needs(ceil(PYTHON_MB + EMULATED * written), 50, 30 + ceil(written / 10))


def _parts(shard: Shard, n_parts: int) -> list[int]:
    layers = [1 + i for i in shard.layers]
    return [*([0] if shard.prologue else []), *layers, *([n_parts - 1] if shard.epilogue else [])]


def most_needed(build: Build, count: int) -> int:
    """Return the megabytes of memory that the largest job of so many shards needs."""
    return max(shard_needs(build, shard).mem_mb for shard in build.shards(count))


@lru_cache(maxsize=10000)
def smallest_sharding(build: Build, budget_mb: int) -> int:
    """Return the number of shards for `num_sharding: auto`: the smallest that the HTP can address and whose jobs need
    at most this memory each, or at most what the largest part needs alone."""
    n_parts = len(build.part_bytes)
    budget_mb = max(budget_mb, most_needed(build, n_parts))

    def fits(shards: list[Shard]) -> bool:
        addressed = max(shard_sums(build.stored_bytes, shards)) <= CONTEXT_LIMIT
        return addressed and most_needed(build, len(shards)) <= budget_mb

    return next((count for count in range(1, n_parts) if fits(build.shards(count))), n_parts)
