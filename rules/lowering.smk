@one_line_errors
def program_settings(wildcards):
    context_len = int(wildcards.context)
    return matrix.program_settings(
        build, wildcards.model, wildcards.recipe, context_len, wildcards.target, wildcards.mode
    )


rule lower:
    input:
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.pte",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.pte.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.log",
    threads: 2
    resources:
        mem_mb=4000,
    params:
        settings=program_settings,
        code=code_digest("lower.py"),
    shell:
        "{PYTHON:q} {workflow.basedir:q}/scripts/lower.py"
        " --settings -"
        " --checkpoint {input.checkpoint:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " --tokenizer {input.tokenizer:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
