"""How a program is made: its templates and shards, and what each of these jobs depends on."""

from typing import Any

from hexport.build.artifacts import Program, shard_file, template_file
from hexport.build.matrix import as_settings, toolchain_versions
from hexport.config.checks import check_lookahead_size, check_r3, check_recipe
from hexport.config.settings import Config
from hexport.programs.abi import ar_lengths_of
from hexport.targets.modes import MODES
from hexport.targets.target import target_named


def templates(config: Config, program: Program) -> list[str]:
    """The files of a program's templates, one of each AR length, which all SoCs of an HTP architecture share."""
    arch, lengths = target_named(program.target).htp_arch, _shard_settings(config, program)["ar_lengths"].values()
    return [template_file(config.artifacts, program, arch, ar_len) for ar_len in sorted(set(lengths))]


def shards(config: Config, program: Program) -> list[str]:
    """The files of a program's context binaries, in order."""
    count = config.models[program.model].num_sharding
    return [shard_file(config.artifacts, program, shard, count) for shard in range(1, count + 1)]


def template_settings(config: Config, recipe: str, context_len: int, arch: str, ar_len: int) -> str:
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


def shard_settings(config: Config, program: Program, n_shards: int) -> str:
    """Raises HexportError as `program_settings` does."""
    return as_settings({**_shard_settings(config, program), "num_sharding": n_shards})


def program_settings(config: Config, program: Program) -> str:
    """Raises HexportError where the target cannot run the recipe, or the mode does not fit the context."""
    sizes = config.models[program.model].sizes(program.context_length)
    keys = {key: sizes[key] for key in MODES[program.mode].keys}
    return as_settings({**_shard_settings(config, program), "mode": program.mode, **keys})


def _shard_settings(config: Config, program: Program) -> dict[str, Any]:
    """Of the mode, only the AR lengths count: a lookahead step of another shape is compiled alike."""
    spec, mode = config.models[program.model], MODES[program.mode]
    sizes, recipe = spec.sizes(program.context_length), config.recipes[program.recipe]
    if mode.looks_ahead:
        check_lookahead_size(spec, program.context_length)
    check_recipe(f"recipe {program.recipe}", recipe, target_named(program.target).soc)
    check_r3(f"recipe {program.recipe}", recipe, program.mode)
    return {
        "target": program.target,
        "ar_lengths": ar_lengths_of(program.mode, sizes),
        "max_seq_len": program.context_length,
        "num_sharding": spec.num_sharding,
        "recipe": program.recipe,
        "recipe_spec": recipe,
        "versions": toolchain_versions(),
    }
