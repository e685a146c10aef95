# A device runs one program at a time: it is a resource of which there is one.
for device in build.devices:
    workflow.register_resource(f"device_{device}", 1)


def device_slot(device):
    return lambda wildcards: int(wildcards.device == device)


@one_line_errors
def program(wildcards):
    return matrix.program(build, wildcards.model, wildcards.recipe, wildcards.target, wildcards.mode)


@one_line_errors
def run_settings(wildcards):
    return matrix.run_settings(
        build, wildcards.model, wildcards.recipe, wildcards.target, wildcards.device, wildcards.mode
    )


# Only to be there: that a gate is new, or was passed anew, is no reason to run again.
def gate(wildcards):
    return [ancient(file) for file in evaluations.gate(build, wildcards.model, wildcards.recipe)]


rule run_program:
    input:
        gate,
        program=program,
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/{target}/{device}/{mode}/result.json",
        manifest="<artifacts>/{model}/{recipe}/{target}/{device}/{mode}/result.json.manifest.json",
        texts="<artifacts>/{model}/{recipe}/{target}/{device}/{mode}/outputs.txt",
    log:
        "<artifacts>/{model}/{recipe}/{target}/{device}/{mode}/run.log",
    localrule: True
    resources:
        **{f"device_{device}": device_slot(device) for device in build.devices},
    params:
        settings=run_settings,
        code=code_digest("run.py"),
    shell:
        # devices.yaml is neither an input nor a parameter: another serial number leaves what ran as it is.
        "{PYTHON:q} {workflow.basedir:q}/scripts/run.py"
        " --settings {params.settings:q}"
        " --devices {DEVICES:q}"
        " --device {wildcards.device:q}"
        " --program {input.program:q}"
        " --tokenizer {input.tokenizer:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
