import shlex


def file_flags(option, files):
    return shlex.join(word for file in files for word in (option, file))


@one_line_errors
def template_settings(wildcards):
    return matrix.template_settings(build, wildcards.model, wildcards.recipe, wildcards.arch, int(wildcards.ar_len))


@one_line_errors
def program_settings(wildcards):
    return matrix.program_settings(build, wildcards.model, wildcards.recipe, wildcards.target, wildcards.mode)


@one_line_errors
def shard_settings(wildcards):
    return matrix.shard_settings(
        build, wildcards.model, wildcards.recipe, wildcards.target, wildcards.mode, int(wildcards.shards)
    )


@one_line_errors
def templates(wildcards):
    return matrix.templates(build, wildcards.model, wildcards.recipe, wildcards.target, wildcards.mode)


@one_line_errors
def shards(wildcards):
    return matrix.shards(build, wildcards.model, wildcards.recipe, wildcards.target, wildcards.mode)


rule lower_templates:
    input:
        config="<artifacts>/{model}/checkpoint/config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/templates/{arch}/ar{ar_len}.json",
        manifest="<artifacts>/{model}/{recipe}/templates/{arch}/ar{ar_len}.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/templates/{arch}/ar{ar_len}.log",
    resources:
        mem_mb=4000,
    params:
        settings=template_settings,
        code=code_digest("lower_templates.py"),
    shell:
        "{PYTHON:q} {workflow.basedir:q}/scripts/lower_templates.py"
        " --settings -"
        " --config {input.config:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule compile_shard:
    input:
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
        templates=templates,
    output:
        artifact="<artifacts>/{model}/{recipe}/{target}/shards/{mode}/{shard}-of-{shards}.bin",
        manifest="<artifacts>/{model}/{recipe}/{target}/shards/{mode}/{shard}-of-{shards}.bin.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/{target}/shards/{mode}/{shard}-of-{shards}.log",
    resources:
        mem_mb=4000,
    params:
        settings=shard_settings,
        templates=lambda wildcards: file_flags("--templates", templates(wildcards)),
        code=code_digest("compile_shard.py"),
    shell:
        "{PYTHON:q} {workflow.basedir:q}/scripts/compile_shard.py"
        " --settings -"
        " --shard {wildcards.shard}"
        " --checkpoint {input.checkpoint:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " {params.templates}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule assemble_program:
    input:
        config="<artifacts>/{model}/checkpoint/config.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
        templates=templates,
        shards=shards,
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/{target}/{mode}_llama_qnn.pte",
        manifest="<artifacts>/{model}/{recipe}/{target}/{mode}_llama_qnn.pte.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/{target}/{mode}_llama_qnn.log",
    resources:
        mem_mb=2000,
    params:
        settings=program_settings,
        templates=lambda wildcards: file_flags("--templates", templates(wildcards)),
        shards=lambda wildcards: file_flags("--shard", shards(wildcards)),
        code=code_digest("assemble_program.py"),
    shell:
        "{PYTHON:q} {workflow.basedir:q}/scripts/assemble_program.py"
        " --settings -"
        " --config {input.config:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " --tokenizer {input.tokenizer:q}"
        " {params.templates}"
        " {params.shards}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
