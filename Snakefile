import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")
sys.path.insert(0, f"{workflow.basedir}/scripts")

from hexport.config import matrix, sources
from hexport.config.checks import check_config
from hexport.config.documents import read_yaml
from hexport.config.settings import parse_config
from hexport.config.socs import HTP_ARCH
from hexport.errors import HexportError
from hexport.provenance import code_digest


include: "rules/common.smk"
include: "rules/staleness.smk"
include: "rules/checkpoint.smk"
include: "rules/tokenizer.smk"
include: "rules/calibration.smk"
include: "rules/lowering.smk"
include: "rules/device.smk"


localrules:
    all,
    tokenizers,
    quantize,
    export,
    run,


rule all:
    default_target: True
    input:
        matrix.programs(build),
        matrix.runs(build),


rule tokenizers:
    input:
        matrix.tokenizers(build),


rule quantize:
    input:
        matrix.quant_attrs(build),


rule export:
    input:
        matrix.programs(build),


rule run:
    input:
        matrix.runs(build),
