"""This module says which templates and shards a program is made from, and what each of these jobs depends on."""

import contextlib
from collections.abc import Iterator
from typing import Any

from hexport.build.artifacts import ProgramKey, shard_file, template_file
from hexport.build.matrix import as_settings, programs_to_build, toolchain_versions
from hexport.build.resources import SizesNotKnown, build_of, machine_mb, most_needed, smallest_sharding
from hexport.config.checks import check_lookahead_size, check_recipe
from hexport.config.settings import AUTO, Config
from hexport.errors import HexportError
from hexport.lowering.shards import check_addressable
from hexport.programs.abi import ar_lengths_of
from hexport.targets.modes import MODES
from hexport.targets.target import target_named


def templates(config: Config, program: ProgramKey) -> list[str]:
    """Return the files of a program's templates, one of each AR length, which all SoCs of an HTP architecture share."""
    arch, lengths = target_named(program.target).htp_arch, _shard_settings(config, program)["ar_lengths"].values()
    return [template_file(config.artifacts, program, arch, ar_len) for ar_len in sorted(set(lengths))]


def shards(config: Config, program: ProgramKey) -> list[str]:
    """Return the files of a program's context binaries, in order."""
    count = n_shards(config, program)
    return [shard_file(config.artifacts, program, shard, count) for shard in range(1, count + 1)]


def check_shard(config: Config, program: ProgramKey, number: int, count: int) -> None:
    """Raise HexportError where a program in so many shards has none of this number, counted from 1."""
    if number > count:
        raise HexportError(f"there is no shard {number} of {count}; name one up to {count}")
    with contextlib.suppress(SizesNotKnown):
        build_of(config, program).shards(count)


def n_shards(config: Config, program: ProgramKey) -> int:
    """Return the number of a program's shards. Raises HexportError where it is `auto` and the sizes of the model are
    not known yet, and where one of so many shards is more than the HTP addresses."""
    count = config.models[program.model].num_sharding
    try:
        build = build_of(config, program)
    except SizesNotKnown as error:
        if count != AUTO:
            return count
        raise HexportError(
            f"models.{program.model}.num_sharding: auto needs the sizes of the model, which are not known yet; run "
            f"`snakemake {error.filename}` first"
        ) from None
    count = smallest_sharding(build, machine_mb(config)) if count == AUTO else count
    try:
        check_addressable(build.stored_bytes, build.shards(count))
    except HexportError as error:
        raise HexportError(f"models.{program.model}, {program.mode} for {program.target}: {error}") from None
    return count


def short_of_memory(config: Config) -> Iterator[str]:
    """Yield one line for each program of which a job may need more memory than there is, with what would help."""
    there_is = machine_mb(config)
    for program in programs_to_build(config):
        try:
            build, count = build_of(config, program), n_shards(config, program)
        except SizesNotKnown:
            continue
        if (most := most_needed(build, count)) > there_is:
            smallest = smallest_sharding(build, there_is)
            least = most_needed(build, smallest)
            helps = f"num_sharding: {smallest} needs {least / 1000:.1f} GB" if least <= there_is else "use fewer bits"
            yield (
                f"model {program.model}, {program.recipe}, max_seq_len {program.context_length}, {program.mode} for "
                f"{program.target}: a job may need {most / 1000:.1f} GB of memory, there are {there_is / 1000:.1f}; "
                f"{helps}, or use a machine with more"
            )


def template_settings(config: Config, recipe: str, context_len: int, arch: str, ar_len: int) -> str:
    """Return the settings of `lower_templates`."""
    return as_settings(
        {
            "arch": arch,
            "ar_len": ar_len,
            "max_seq_len": context_len,
            "recipe": recipe,
            "recipe_spec": config.recipes[recipe],
            "versions": toolchain_versions(),
        }
    )


def shard_settings(config: Config, program: ProgramKey, count: int) -> str:
    """Return the settings of `compile_shard`. Raises HexportError as `program_settings` does."""
    return as_settings({**_shard_settings(config, program), "num_sharding": count})


def program_settings(config: Config, program: ProgramKey) -> str:
    """Return the settings of `assemble_program`. Raises HexportError where the target cannot run the recipe, or the
    mode does not fit the context."""
    sizes = config.models[program.model].sizes(program.context_length)
    keys = {key: sizes[key] for key in MODES[program.mode].keys if key != "num_sharding"}
    return as_settings({**_shard_settings(config, program), "mode": program.mode, **keys})


def _shard_settings(config: Config, program: ProgramKey) -> dict[str, Any]:
    """Return what all shards of a program depend on. Of the mode, only the AR lengths count: a lookahead step of
    another shape is compiled alike."""
    spec, mode = config.models[program.model], MODES[program.mode]
    sizes, recipe = spec.sizes(program.context_length), config.recipes[program.recipe]
    if mode.looks_ahead:
        check_lookahead_size(spec, program.context_length)
    check_recipe(f"recipe {program.recipe}", recipe, target_named(program.target).soc)
    return {
        "target": program.target,
        "ar_lengths": ar_lengths_of(program.mode, sizes),
        "max_seq_len": program.context_length,
        "num_sharding": n_shards(config, program),
        "recipe": program.recipe,
        "recipe_spec": recipe,
        "versions": toolchain_versions(),
    }
