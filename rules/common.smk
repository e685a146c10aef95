import functools
import os
import re

from snakemake.logging import logger
from snakemake.utils import update_config
from snakemake_interface_logger_plugins.common import LogEvent

PYTHON = sys.executable


def fail(error):
    # Leaving here keeps Snakemake from wrapping the lines in its own.
    sys.exit("\n".join(f"error: {line}" for line in error.lines))


def one_line_errors(function):
    """For input and params functions: a HexportError ends Snakemake with its line."""

    @functools.wraps(function)
    def wrapper(wildcards):
        try:
            return function(wildcards)
        except HexportError as error:
            fail(error)

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


def load_build():
    files = workflow.overwrite_configfiles or ["config.yaml"]
    document = {}
    for file in files:
        update_config(document, read_yaml(Path(file)))
    update_config(document, config)  # --config
    source = ", ".join(map(os.path.relpath, files))
    build = parse_config(document, source)
    check_config(build, source)
    matrix.toolchain_versions()
    return build


try:
    build = load_build()
except HexportError as error:
    fail(error)

DEVICES = build.devices_file
# Calibration and evaluation compute on all of them, so only one such job runs at a time.
ALL_CORES = workflow.resource_settings.cores or os.cpu_count()

if workflow.is_main_process:
    for line in matrix.left_out(build):
        print(f"note: {line}", file=sys.stderr)


pathvars:
    artifacts=build.artifacts,


def names(known):
    return "|".join(map(re.escape, known)) or "(?!)"


wildcard_constraints:
    download=names(sources.downloads(build)),
    model=names(build.models),
    recipe=names(build.recipes),
    target=f"({names(HTP_ARCH)})(-emulator)?",
    device=names([*build.devices, PHONES]),
    mode=names(matrix.PROGRAM_KEYS),
