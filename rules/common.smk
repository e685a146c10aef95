import functools
import os
import re
import traceback

PYTHON = sys.executable


def fail(error):
    # Leaving here keeps Snakemake from wrapping the lines in its own.
    sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))


def fail_by_bug(error):
    log = Path(".snakemake", "log", f"hexport-{os.getpid()}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    fail(f"a bug of hexport, not of yours: {type(error).__name__}; {log} has the trace: please report it")


def one_line_errors(function):
    """Whatever a function raises ends Snakemake in one line: of the user's fault, or of where the trace of ours is."""

    @functools.wraps(function)
    def wrapper(*args):
        try:
            return function(*args)
        except HexportError as error:
            fail(error)
        except Exception as error:
            fail_by_bug(error)

    return wrapper


@one_line_errors
def load_build():
    document, source = read_config(workflow.config_settings.config, workflow.overwrite_configfiles)
    build = parse_config(document, source)
    check_config(build, source)
    matrix.toolchain_versions()
    return build


build = load_build()

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
