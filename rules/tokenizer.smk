rule extract_tokenizer:
    input:
        lambda wildcards: matrix.tokenizer_inputs(build, wildcards.model),
    output:
        artifact="<artifacts>/{model}/tokenizer/tokenizer.json",
        manifest="<artifacts>/{model}/tokenizer/tokenizer.json.manifest.json",
        config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
        config_manifest="<artifacts>/{model}/tokenizer/tokenizer_config.json.manifest.json",
    log:
        "<artifacts>/{model}/tokenizer/tokenizer.log",
    params:
        settings=matrix.tokenizer_settings(),
        source=lambda wildcards: matrix.tokenizer_source(build, wildcards.model),
        code=code_digest("tokenizer.py"),
    shell:
        "{PYTHON:q} {workflow.basedir:q}/scripts/tokenizer.py"
        " --settings {params.settings:q}"
        " --source {params.source:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
