import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")
# Where this file is, also where another workflow takes it as a module.
FOLDER = workflow.current_basedir.get_path_or_uri(secret_free=False)
sys.path.insert(0, f"{FOLDER}/scripts")

from hexport.artifact_cache import FOLDER as CACHE_FOLDER, LIMIT_GB as CACHE_LIMIT_GB
from hexport.build import bundles, evaluations, lowering, matrix, resources, sources
from hexport.build.artifacts import Place, ProgramKey, checkpoint_config_file, states_folder
from hexport.code_digest import code_digest
from hexport.config.checks import check_config
from hexport.config.devices import PHONES, device_slots, taken_slots
from hexport.config.reading import config_of_module, read_config
from hexport.config.settings import parse_config
from hexport.errors import HexportError, report as error_lines
from hexport.targets.modes import MODES
from hexport.targets.socs import HTP_ARCH
from hexport.targets.target import EMULATOR_SUFFIX, target_named, target_of_arch


include: "rules/common.smk"
include: "rules/staleness.smk"
include: "rules/view.smk"
include: "rules/outcome.smk"
include: "rules/checkpoint.smk"
include: "rules/tokenizer.smk"
include: "rules/calibration.smk"
include: "rules/lowering.smk"
include: "rules/bundle.smk"
include: "rules/device.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"
include: "rules/sensitivity.smk"


localrules:
    all,
    tokenizers,
    quantize,
    export,
    bundle,
    run,
    evaluate,
    report,


rule all:
    """Make all that the config asks for: programs, runs, evaluations, gates and the report."""
    default_target: True
    input:
        matrix.programs(build),
        matrix.runs(build),
        evaluations.gates(build),
        evaluations.ready_gates(build),
        evaluations.evaluations(build),
        evaluations.reports(build) if evaluations.evaluations(build) else [],


rule tokenizers:
    """Make the tokenizer of every model, in each form that it can be had as."""
    input:
        matrix.tokenizers(build),


rule quantize:
    """Make the scales and zero points (quant_attrs.json) of every model and recipe."""
    input:
        matrix.quant_attrs(build),


rule export:
    """Make every program, and check the gates of the quantised models."""
    input:
        matrix.programs(build),
        evaluations.gates(build),


rule bundle:
    """Make the bundle of every program: all that an app team needs to run it."""
    input:
        bundles.bundles(build),
        evaluations.gates(build),


rule run:
    """Run every program on the prompts of its model, on each device."""
    input:
        matrix.runs(build),
        evaluations.gates(build),


rule evaluate:
    """Evaluate every model in floats, fake-quantised and on each device, and write a table of it."""
    input:
        evaluations.evaluations(build),
        evaluations.gates(build),
        evaluations.ready_gates(build),
        evaluations.summary_files(build),


rule report:
    """Make a page of all evaluations and runs, and their table."""
    input:
        evaluations.reports(build),
