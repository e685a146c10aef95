@one_line_errors
def checkpoint_files(wildcards):
    return [kept_here(file) for file in sources.checkpoint_inputs(build, wildcards.model)]


rule fetch:
    """Download the file or the repository that a URI names."""
    output:
        artifact=kept_here("<artifacts>/downloads/{download}"),
        manifest=kept_here("<artifacts>/downloads/{download}.manifest.json"),
    log:
        "<artifacts>/downloads/{download}.log",
    params:
        settings=lambda wildcards: matrix.fetch_settings(build, wildcards.download),
        code=code_digest("fetch.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/fetch.py"
        " --settings -"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule convert_checkpoint:
    """Write the canonical checkpoint, model.safetensors and config.json, from a published one."""
    input:
        checkpoint_files,
    output:
        artifact="<artifacts>/{model}/checkpoint/model.safetensors",
        manifest="<artifacts>/{model}/checkpoint/model.safetensors.manifest.json",
        config="<artifacts>/{model}/checkpoint/config.json",
        config_manifest="<artifacts>/{model}/checkpoint/config.json.manifest.json",
    log:
        "<artifacts>/{model}/checkpoint/checkpoint.log",
    resources:
        mem_mb=500,  # block by block, whatever the size
        runtime=60,
    params:
        settings=lambda wildcards: matrix.checkpoint_settings(build, wildcards.model),
        source=lambda wildcards: sources.checkpoint_source(build, wildcards.model),
        code=code_digest("convert_checkpoint.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/convert_checkpoint.py"
        " --settings -"
        " --source {params.source:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
