"""This module finds what a schema cannot see: keys of config.yaml that do not go together, or not with this version."""

import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from hexport.checkpoints.files import checkpoint_files
from hexport.config.documents import check_file
from hexport.config.paths import SPECIAL, check_output_folder, path_faults
from hexport.config.ready_programs import ready_program
from hexport.config.recipes import built_in_recipes
from hexport.config.schema import cut, nearest, raise_all
from hexport.config.settings import CALIBRATION_SOURCES, FILE_SOURCES, Config, Model
from hexport.config.tasks import task_faults
from hexport.config.uris import check_uri, is_remote, may_hold_tokenizer, tokenizer_of
from hexport.errors import HexportError
from hexport.quantization.recipe import projections
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.modes import MODES, lookahead_ar_len
from hexport.targets.socs import ALL, ARCHS, HTP_ARCH, MIN_ARCH_16_BIT_KV, MIN_ARCH_BLOCKS
from hexport.tokenizers.files import tokenizer_files

GATES = ("max_perplexity_ratio", "min_sqnr_db")
# Names that the layout of artifacts/ gives another meaning.
FOLDERS_OF_ARTIFACTS = ("downloads", "report")
FOLDERS_OF_MODELS = ("checkpoint", "tokenizer", "calibration", "evaluation")


def check_config(config: Config, source: str) -> None:
    """Check a whole config. Raises HexportError with a line for each fault; `source` names the file that the config is
    from."""
    raise_all(source, path_faults(config))  # a path that cannot be is not looked for
    checks = (_soc_faults, _recipe_faults, _sha256_faults, _artifacts_faults, task_faults, _model_faults)
    raise_all(source, chain.from_iterable(check(config) for check in checks))


def check_recipe(name: str, spec: dict, soc: str) -> None:
    """Check that a SoC can run a recipe; raise HexportError where the SoC lacks what the recipe needs."""
    if unmet := _unmet_need(name, spec, HTP_ARCH[soc]):
        need, instead = unmet
        remedy = f"set {instead} in a recipe based on it, or remove {soc} from socs"
        raise HexportError(f"{need}; {soc} is V{HTP_ARCH[soc]}: {remedy}")


def _unmet_need(name: str, spec: dict, arch: int) -> tuple[str, str] | None:
    """Return what the recipe needs and the architecture lacks, and the key to set in its place; None where it lacks
    nothing."""
    recipe = recipe_from(spec, name)
    if recipe.kv_bits == 16 and arch < MIN_ARCH_16_BIT_KV:
        return f"{name} has kv_bits 16, which need V{MIN_ARCH_16_BIT_KV} or newer", "kv_bits: 8"
    if arch < MIN_ARCH_BLOCKS and "per_block" in {recipe.at(*where).granularity for where in projections(recipe)}:
        return f"{name} has granularity per_block, which needs V{MIN_ARCH_BLOCKS} or newer", "granularity: per_channel"
    return None


def unfit_recipes(config: Config, model: Model, soc: str) -> dict[str, str]:
    """Return what those of the model's recipes need that the SoC cannot run, by their names."""
    unmet = {name: _unmet_need(name, config.recipes[name], HTP_ARCH[soc]) for name in model.recipes}
    return {name: found[0] for name, found in unmet.items() if found}


def check_lookahead_size(model: Model, context_len: int) -> None:
    """Check that a step of lookahead decoding fits the context; raise HexportError where it does not."""
    size = lookahead_ar_len(model.ngram, model.window, model.gcap)
    if size >= context_len:
        raise HexportError(
            f"a lookahead step of {size} tokens, (window + gcap) * (ngram - 1) up to a power of 2, "
            f"must be less than max_seq_len, {context_len}; lower ngram, window or gcap, or raise it"
        )


def check_greedy(model: Model) -> None:
    """Check that lookahead decoding answers greedily; raise HexportError where it would have to sample."""
    if model.temperature > 0:
        raise HexportError(
            "mode lookahead answers greedily, since only such answers can be compared with those of mode kv; "
            f"set temperature, {model.temperature:g}, to 0, or leave lookahead out of modes"
        )


def _refusal(where: str, check: Callable, *arguments: object) -> Iterator[str]:
    """Yield what a check that raises HexportError says of a place in the config."""
    try:
        check(*arguments)
    except HexportError as error:
        yield f"{where}: {error}"


def _model_faults(config: Config) -> Iterator[str]:
    for model in config.models.values():
        if model.pre_gen_pte is None:
            checks = (_checkpoint_faults, _tokenizer_faults, _mode_faults, _length_faults, _data_faults, _gate_faults)
        else:
            checks = (_ready_program_faults, _tokenizer_faults, _mode_faults, _gate_faults)
            checks = (_checkpoint_faults, *checks) if model.has_float_model else checks
        yield from (f"models.{model.name}{fault}" for check in checks for fault in check(model))


def check_socs(config: Config, source: str) -> None:
    """Check that all SoCs of a config are known. Raises HexportError with a line for each that is not; `source` names
    the config's file."""
    raise_all(source, _soc_faults(config))


def _soc_faults(config: Config) -> Iterator[str]:
    for soc in config.socs:
        if soc not in HTP_ARCH:
            yield f"socs: unknown SoC {cut(repr(soc))}{nearest(soc, [ALL, *ARCHS, *HTP_ARCH])}"


def _recipe_faults(config: Config) -> Iterator[str]:
    for name in config.recipes:
        if name in FOLDERS_OF_MODELS:
            yield f"recipes.{name}: the name is taken by a folder of artifacts; choose another"
    own = [name for name in config.recipes if name not in built_in_recipes()]
    faults = {name: list(_refusal("recipes", recipe_from, config.recipes[name], name)) for name in own}
    yield from chain.from_iterable(faults.values())
    faulty = {name for name in faults if faults[name]}
    for model in config.models.values():
        yield from _faults_of_use(config, model, faulty)


def _faults_of_use(config: Config, model: Model, faulty: set[str]) -> Iterator[str]:
    """Yield a line for each fault of the model's use of recipes. A recipe that a SoC cannot run is left out there,
    which is a fault only where none is left then."""
    where = f"models.{model.name}.recipe"
    unknown = [name for name in model.recipes if name not in config.recipes]
    for name in unknown:
        yield f"{where}: unknown recipe {cut(repr(name))}{nearest(name, config.recipes)}"
    if unknown or faulty.intersection(model.recipes) or model.pre_gen_pte is not None:
        return
    for soc in (soc for soc in config.socs if soc in HTP_ARCH):
        if len(unfit_recipes(config, model, soc)) == len(model.recipes):
            for name in model.recipes:
                yield from _refusal(where, check_recipe, name, config.recipes[name], soc)


def _sha256_faults(config: Config) -> Iterator[str]:
    expected: dict[str, str] = {}
    for model in config.models.values():
        if model.sha256 is not None and model.checkpoint and is_remote(model.checkpoint):
            first = expected.setdefault(model.checkpoint, model.name)
            if config.models[first].sha256 != model.sha256:
                yield f"models.{model.name}.sha256: differs from that of {first}, which has the same checkpoint"


def _artifacts_faults(config: Config) -> Iterator[str]:
    yield from _refusal("artifacts", check_output_folder, config.artifacts)
    if config.cache is not None:
        yield from _refusal("cache", check_output_folder, config.cache)
    for model in config.models.values():
        where = f"models.{model.name}"
        if model.name in FOLDERS_OF_ARTIFACTS:
            yield f"{where}: the name is taken by a folder of artifacts; choose another"
        if model.pre_gen_pte and Path(model.pre_gen_pte).resolve().is_relative_to(Path(config.artifacts).resolve()):
            yield (
                f"{where}.pre_gen_pte: {model.pre_gen_pte} is in {config.artifacts}, where programs are built anew; "
                "copy those to be kept elsewhere"
            )


def _checkpoint_faults(model: Model) -> Iterator[str]:
    if model.params is not None and (faults := list(_refusal(".params", check_file, Path(model.params)))):
        yield from faults
    elif is_remote(model.checkpoint):
        yield from _download_faults(model)
    else:
        yield from _refusal(".checkpoint", _check_checkpoint, Path(model.checkpoint), model.params)


def _check_checkpoint(path: Path, params: str | None) -> None:
    for file in checkpoint_files(path, params and Path(params)):
        check_file(file)
        if found := SPECIAL.search(str(file)):
            raise HexportError(f"{file}: {found[0]} in a path has a meaning of its own for Snakemake; rename it")


def _download_faults(model: Model) -> Iterator[str]:
    try:
        check_uri(model.checkpoint, model.sha256)
        if model.tokenizer is None and not may_hold_tokenizer(model.checkpoint):
            yield f".tokenizer: missing, and {model.checkpoint} is one file, without a tokenizer"
    except HexportError as error:
        yield f".checkpoint: {error}"


def _tokenizer_faults(model: Model) -> Iterator[str]:
    source = tokenizer_of(model)
    if not is_remote(source):
        if model.tokenizer is not None or model.pre_gen_pte is not None or Path(source).exists():
            yield from _refusal(".tokenizer", tokenizer_files, Path(source))
    elif model.tokenizer is not None:
        yield from _refusal(".tokenizer", check_uri, source, None)


def _ready_program_faults(model: Model) -> Iterator[str]:
    refusals = (_refusal(".pre_gen_pte", ready_program, model.pre_gen_pte, mode) for mode in model.modes)
    yield from dict.fromkeys(chain.from_iterable(refusals))  # a missing folder is one fault
    for key, values in (("recipe", model.recipes), ("max_seq_len", model.context_lens)):
        if len(values) > 1:
            yield f".{key}: has {len(values)} values, and a program of pre_gen_pte is made already; give one"
    if not model.conversations and model.evaluation is None:
        yield ".prompts: missing; the programs of pre_gen_pte are only run"
    if model.tokenizer is None and is_remote(model.checkpoint):
        yield from _download_faults(model)


def _mode_faults(model: Model) -> Iterator[str]:
    if not math.isfinite(model.temperature):
        yield f".temperature: expected a finite number, got {model.temperature}"
    elif _looks_ahead(model):
        yield from _refusal(".temperature", check_greedy, model)


def _looks_ahead(model: Model) -> bool:
    return any(MODES[mode].looks_ahead for mode in model.modes)


def _gate_faults(model: Model) -> Iterator[str]:
    for key in GATES:
        threshold = getattr(model.evaluation, key, None)
        if threshold is not None and not math.isfinite(threshold):
            yield f".evaluation.{key}: expected a finite number, got {threshold}"
        elif threshold is not None and not model.has_float_model:
            unknown = "of which the programs of pre_gen_pte know nothing; remove it, or name their checkpoint"
            yield f".evaluation.{key}: compares with the float model, {unknown}"


def _length_faults(model: Model) -> Iterator[str]:
    smallest = min(model.context_lens)
    for key in ("prefill_ar_len", "seq_len"):
        if (value := model.sizes(smallest)[key]) > smallest:
            yield f".{key}: {value} is more than max_seq_len, {smallest}"
    if _looks_ahead(model):
        yield from _refusal(".ngram", check_lookahead_size, model, smallest)


def _data_faults(model: Model) -> Iterator[str]:
    data = model.calibration
    if data is None:
        return
    sources = list(data.sources)
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        yield f".calibration: expected one of {', '.join(CALIBRATION_SOURCES)}, got {found}"
        return
    unused = [key for key in ("limit", "num_fewshot") if getattr(data, key) is not None]
    if unused and data.tasks is None:
        yield f".calibration.{unused[0]}: goes with tasks, not with {sources[0]}"
    if sources[0] in FILE_SOURCES:
        yield from _refusal(f".calibration.{sources[0]}", check_file, Path(data.sources[sources[0]]))
