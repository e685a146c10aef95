def template_settings(wildcards):
    context_len, ar_len = int(wildcards.context), int(wildcards.ar_len)
    return lowering.template_settings(build, wildcards.recipe, context_len, wildcards.arch, ar_len)


@one_line_errors
def shard_settings(wildcards):
    return lowering.shard_settings(build, program_of(wildcards), int(wildcards.shards))


@one_line_errors
def program_settings(wildcards):
    return lowering.program_settings(build, program_of(wildcards))


@one_line_errors
def templates(wildcards):
    return lowering.templates(build, program_of(wildcards))


# Inputs come before resources, which have no line of their own for what is wrong.
@one_line_errors
def templates_of_shard(wildcards):
    lowering.check_shard(build, program_of(wildcards), int(wildcards.shard), int(wildcards.shards))
    return lowering.templates(build, program_of(wildcards))


@one_line_errors
def shards(wildcards):
    return lowering.shards(build, program_of(wildcards))


# All AR lengths of a model take about the same.
def template_needs(wildcards):
    target = target_of_arch(wildcards.arch).name
    program = ProgramKey(wildcards.model, wildcards.recipe, int(wildcards.context), target, "kv")
    return resources.template_needs(resources.build_of(build, program))


def shard_needs(wildcards):
    of_program = resources.build_of(build, program_of(wildcards))
    return resources.shard_needs(of_program, of_program.shards(int(wildcards.shards))[int(wildcards.shard) - 1])


def shard_threads(wildcards):
    if ON_CLUSTER or not SHARED_FILES:
        return 1  # the HTP compiler works on one core for most of its time
    try:
        return resources.cores_for(shard_needs(wildcards).mem_mb, resources.machine_mb(build), ALL_CORES)
    except resources.SizesNotKnown:  # in a dry run: unlike resources, threads cannot be told later
        return ALL_CORES


def program_needs(wildcards):
    return resources.program_needs(resources.build_of(build, program_of(wildcards)))


rule lower_templates:
    """Write the layer templates of one AR length, QNN ops without weights, from the sizes of a model."""
    input:
        config="<artifacts>/{model}/checkpoint/config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/templates/{arch}/ar{ar_len}.json",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/templates/{arch}/ar{ar_len}.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/templates/{arch}/ar{ar_len}.log",
    resources:
        **needs(template_needs),
    params:
        settings=template_settings,
        code=code_digest("lower_templates.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/lower_templates.py"
        " --settings -"
        " --config {input.config:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule compile_shard:
    """Write a context binary of the HTP, from layer templates, a checkpoint and its quant attrs."""
    input:
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
        templates=templates_of_shard,
        weights=weights,
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/shards/{mode}/{shard}-of-{shards}.bin",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/shards/{mode}/{shard}-of-{shards}.bin.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/shards/{mode}/{shard}-of-{shards}.log",
    threads: shard_threads
    resources:
        **needs(shard_needs),
    params:
        settings=shard_settings,
        files=lambda wildcards, input: file_flags(templates=input.templates, weights=input.weights),
        code=code_digest("compile_shard.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/compile_shard.py"
        " --settings -"
        " --shard {wildcards.shard}"
        " --checkpoint {input.checkpoint:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " {params.files}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule assemble_program:
    """Write a program (.pte), from its context binaries, its quant attrs and its tokenizer."""
    input:
        config="<artifacts>/{model}/checkpoint/config.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
        templates=templates,
        shards=shards,
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.pte",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.pte.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.log",
    resources:
        **needs(program_needs),
    params:
        settings=program_settings,
        files=lambda wildcards, input: file_flags(templates=input.templates, shard=input.shards),
        code=code_digest("assemble_program.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/assemble_program.py"
        " --settings -"
        " --config {input.config:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " --tokenizer {input.tokenizer:q}"
        " {params.files}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
