import shlex


def calibration_files(wildcards):
    return [kept_here(file) for file in matrix.calibration_files(build, wildcards.model)]


def calibration_flags(wildcards):
    return shlex.join(matrix.calibration_options(build, wildcards.model))


rule encode_calibration:
    """Write the token ids that a model is calibrated on, from texts, chats or tasks and its tokenizer."""
    input:
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
        files=calibration_files,
    output:
        artifact="<artifacts>/{model}/calibration/tokens.json",
        manifest="<artifacts>/{model}/calibration/tokens.json.manifest.json",
    log:
        "<artifacts>/{model}/calibration/tokens.log",
    params:
        settings=lambda wildcards: matrix.calibration_settings(build, wildcards.model),
        files=calibration_flags,
        code=code_digest("encode_calibration.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/encode_calibration.py"
        " --settings -"
        " --tokenizer {input.tokenizer:q}"
        " {params.files}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule quantize_weights:
    """Write weights.safetensors, the scales and codes of weights, from a checkpoint and calibration data."""
    input:
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        tokens="<artifacts>/{model}/calibration/tokens.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/weights.safetensors",
        manifest="<artifacts>/{model}/{recipe}/weights.safetensors.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/weights.log",
    threads: ALL_CORES
    resources:
        **needs(lambda wildcards: resources.weights_needs(build, wildcards.model, wildcards.recipe)),
    params:
        settings=lambda wildcards: matrix.quant_attrs_settings(build, wildcards.model, wildcards.recipe),
        code=code_digest("quantize_weights.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/quantize_weights.py"
        " --settings -"
        " --checkpoint {input.checkpoint:q}"
        " --tokens {input.tokens:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule calibrate:
    """Write quant_attrs.json, scales and zero points, from a checkpoint and calibration data."""
    input:
        weights=weights,
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        tokens="<artifacts>/{model}/calibration/tokens.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/quant_attrs.json",
        manifest="<artifacts>/{model}/{recipe}/quant_attrs.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/quant_attrs.log",
    threads: ALL_CORES
    resources:
        **needs(lambda wildcards: resources.calibration_needs(model_sizes(wildcards))),
    params:
        settings=lambda wildcards: matrix.quant_attrs_settings(build, wildcards.model, wildcards.recipe),
        weights=weight_flags,
        code=code_digest("calibrate.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/calibrate.py"
        " --settings -"
        " --checkpoint {input.checkpoint:q}"
        " --tokens {input.tokens:q}"
        " {params.weights}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
