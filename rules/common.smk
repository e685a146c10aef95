from dataclasses import replace
import functools
from itertools import chain
import os
import re
import shlex
from types import SimpleNamespace

from snakemake.io import get_flag_value
from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import SharedFSUsage
from snakemake_interface_logger_plugins.common import LogEvent


def one_line_errors(function):
    """End Snakemake in one line where a function raises: it tells the user's fault, or where the trace of ours is."""

    @functools.wraps(function)
    def wrapper(*args):
        try:
            return function(*args)
        except Exception as error:
            log = None if isinstance(error, HexportError) else Path(f".snakemake/log/hexport-{os.getpid()}.log")
            # Leaving here keeps Snakemake from wrapping the lines in its own.
            sys.exit("\n".join(f"error: {line}" for line in error_lines(error, log)))

    return wrapper


def without_commands(record):
    """Drop Snakemake's own account of a script that failed, which repeats the whole command: the script has said in one
    line what is wrong, and Snakemake names its log."""
    if record.levelname == "ERROR" and "CalledProcessError in file" in record.getMessage():
        return False
    if getattr(record, "event", None) is LogEvent.JOB_ERROR:
        record.shellcmd = None
    return True


logger.addFilter(without_commands)


# Whether jobs see the files of this machine. Where they do not, a job gets copies of what its rule declares.
SHARED_FILES = SharedFSUsage.INPUT_OUTPUT in workflow.storage_settings.shared_fs_usage


def copies_of(folder):
    """Return where Snakemake puts its copies of what is in this folder of the storage, if there is one."""
    if SHARED_FILES:
        return folder
    stored = workflow.modifier.path_modifier.apply_default_storage(folder)
    return str(get_flag_value(stored, "storage_object").local_path())


@one_line_errors
def load_build():
    if workflow.modifier.is_main_snakefile():
        document, source = read_config(workflow.config_settings.config, workflow.overwrite_configfiles)
    else:
        document, source = config_of_module(config)
    build = parse_config(document, source)
    if workflow.is_main_process:  # a job's Snakemake reads what this one has found right, maybe elsewhere
        check_config(build, source)
    matrix.toolchain_versions()
    return replace(build, copies=copies_of(build.artifacts))


build = load_build()


def outermost(modifier):
    """Return the modifier of the workflow which takes this one as a module, maybe through others."""
    return modifier if modifier.parent_modifier is None else outermost(modifier.parent_modifier)


def kept_here(file):
    """Mark a file that no storage has: what the config names, and downloads. Jobs that read or write it run here."""
    return file if SHARED_FILES else local(file)


# Commands use it: Snakemake formats them with the names of the outermost workflow before a job, and with ours in it.
here = SimpleNamespace(python=sys.executable, folder=FOLDER, devices=build.devices_file)
outermost(workflow.modifier).globals["here"] = here

# Jobs get the cache by variables, as no artifact depends on its place.
if build.cache:
    os.environ |= {CACHE_FOLDER: os.path.abspath(build.cache), CACHE_LIMIT_GB: str(build.cache_gb)}
# Calibration and evaluation compute on all cores, so only one such job runs at a time.
ALL_CORES = workflow.resource_settings.cores or os.cpu_count()


@one_line_errors
def notes_on_memory():
    return list(lowering.short_of_memory(build))


if workflow.is_main_process:
    for line in chain(matrix.left_out(build), notes_on_memory()):
        print(f"note: {line}", file=sys.stderr)


pathvars:
    artifacts=build.artifacts,


def names(known):
    return "|".join(map(re.escape, known)) or "(?!)"


def place_of(wildcards):
    context_length = int(wildcards.context)
    return Place(wildcards.model, wildcards.recipe, context_length, wildcards.target, wildcards.device, wildcards.mode)


def program_of(wildcards):
    context_length = int(wildcards.context)
    return ProgramKey(wildcards.model, wildcards.recipe, context_length, wildcards.target, wildcards.mode)


# Jobs go to nodes, whatever this machine has.
ON_CLUSTER = workflow.resource_settings.nodes is not None
# Beside a job on a node, there are the Snakemake that started it and the one that this one was started by.
SNAKEMAKES_MB = 350 if ON_CLUSTER else 0

# The memory that all jobs may need at one time; --resources mem_mb=… on the command line wins.
if workflow.is_main_process and not ON_CLUSTER:
    workflow.global_resources.setdefault("mem_mb", resources.machine_mb(build))


def needs(of):
    """Return the resources of jobs, which ask for more memory after each attempt that failed, for lack of it maybe."""
    if not SHARED_FILES and not workflow.is_main_process:
        return {}  # they were asked for, by sizes which are not known here
    return {
        "mem_mb": lambda wildcards, attempt: of(wildcards).mem_mb * (1 + attempt) // 2 + SNAKEMAKES_MB,
        "disk_mb": lambda wildcards: of(wildcards).disk_mb,
        "runtime": lambda wildcards: of(wildcards).runtime,
    }


def weights(wildcards):
    """Return the file of coded weights of a recipe that asks for an algorithm, in a list that is empty for others."""
    return matrix.weights(build, wildcards.model, wildcards.recipe)


def weight_flags(wildcards, input):
    return file_flags(weights=input.weights)


def file_flags(**files):
    options = {name.replace("_", "-"): named for name, named in files.items()}
    return shlex.join(word for option, named in options.items() for file in named for word in (f"--{option}", file))


def model_sizes(wildcards):
    return resources.sizes_for(build, wildcards.model)


wildcard_constraints:
    context=names(sorted({str(length) for model in build.models.values() for length in model.context_lens})),
    download=names(sources.downloads(build)),
    model=names(build.models),
    recipe=names(build.recipes),
    target=f"({names(HTP_ARCH)})({EMULATOR_SUFFIX})?",
    device=names([*build.devices, PHONES]),
    mode=names(MODES),
    arch="V[0-9]+",
    ar_len="[1-9][0-9]*",
    shard="[1-9][0-9]*",
    shards="[1-9][0-9]*",
