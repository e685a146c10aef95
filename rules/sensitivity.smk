# This is asked for by its path only: it helps to write a recipe, and nothing is made of it.
rule sensitivity:
    """Write sensitivity.yaml, the parts that are worth more bits, from a checkpoint and its quant attrs."""
    input:
        weights=weights,
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        tokens="<artifacts>/{model}/calibration/tokens.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/sensitivity.yaml",
        manifest="<artifacts>/{model}/{recipe}/sensitivity.yaml.manifest.json",
        table="<artifacts>/{model}/{recipe}/sensitivity.json",
        table_manifest="<artifacts>/{model}/{recipe}/sensitivity.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/sensitivity.log",
    threads: ALL_CORES
    resources:
        mem_mb=8000,
    params:
        settings=lambda wildcards: matrix.quant_attrs_settings(build, wildcards.model, wildcards.recipe),
        weights=weight_flags,
        code=code_digest("sensitivity.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/sensitivity.py"
        " --settings -"
        " --checkpoint {input.checkpoint:q}"
        " --tokens {input.tokens:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " {params.weights}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
