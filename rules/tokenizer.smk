@one_line_errors
def published_tokenizer(wildcards):
    return [kept_here(file) for file in sources.tokenizer_inputs(build, wildcards.model)]


@one_line_errors
def published_model(wildcards):
    return [kept_here(file) for file in sources.tokenizer_model_inputs(build, wildcards.model)]


rule extract_tokenizer:
    """Write tokenizer.json and tokenizer_config.json, from a published tokenizer in any form."""
    input:
        published_tokenizer,
    output:
        artifact="<artifacts>/{model}/tokenizer/tokenizer.json",
        manifest="<artifacts>/{model}/tokenizer/tokenizer.json.manifest.json",
        config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
        config_manifest="<artifacts>/{model}/tokenizer/tokenizer_config.json.manifest.json",
    log:
        "<artifacts>/{model}/tokenizer/tokenizer.log",
    params:
        settings=matrix.tokenizer_settings(),
        source=lambda wildcards: sources.tokenizer_source(build, wildcards.model),
        code=code_digest("extract_tokenizer.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/extract_tokenizer.py"
        " --settings -"
        " --source {params.source:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule copy_tokenizer_model:
    """Copy the published tokenizer.model, SentencePiece's or tiktoken's, of a tokenizer."""
    input:
        published_model,
    output:
        artifact="<artifacts>/{model}/tokenizer/tokenizer.model",
        manifest="<artifacts>/{model}/tokenizer/tokenizer.model.manifest.json",
    log:
        "<artifacts>/{model}/tokenizer/tokenizer.model.log",
    params:
        settings=matrix.tokenizer_settings(),
        source=lambda wildcards: sources.tokenizer_source(build, wildcards.model),
        code=code_digest("copy_tokenizer_model.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/copy_tokenizer_model.py"
        " --settings -"
        " --source {params.source:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule write_tokenizer_bin:
    """Write tokenizer.bin, the format of llama2.c, from a SentencePiece model."""
    input:
        model="<artifacts>/{model}/tokenizer/tokenizer.model",
    output:
        artifact="<artifacts>/{model}/tokenizer/tokenizer.bin",
        manifest="<artifacts>/{model}/tokenizer/tokenizer.bin.manifest.json",
    log:
        "<artifacts>/{model}/tokenizer/tokenizer.bin.log",
    params:
        settings=matrix.tokenizer_settings(),
        code=code_digest("write_tokenizer_bin.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/write_tokenizer_bin.py"
        " --settings -"
        " --source {input.model:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
