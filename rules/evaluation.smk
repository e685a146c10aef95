@one_line_errors
def fp_settings(wildcards):
    return evaluations.fp_settings(build, wildcards.model, int(wildcards.context))


@one_line_errors
def qdq_settings(wildcards):
    return evaluations.qdq_settings(build, wildcards.model, wildcards.recipe, int(wildcards.context))


@one_line_errors
def device_settings(wildcards):
    return evaluations.device_settings(build, place_of(wildcards))


@one_line_errors
def gate_settings(wildcards):
    return evaluations.gate_settings(build, wildcards.model)


def task_files(wildcards):
    return [kept_here(file) for file in evaluations.evaluation_files(build, wildcards.model)]


def task_flags(wildcards):
    return shlex.join(evaluations.task_options(build, wildcards.model))


def states(wildcards):
    return states_folder(build.copies, wildcards.model)


def float_model(wildcards):
    return evaluations.float_model(build, wildcards.model, wildcards.recipe, int(wildcards.context))


def float_files(wildcards):
    files = float_model(wildcards)
    return files | ({"config": checkpoint_config_file(build.artifacts, wildcards.model)} if files else {})


def float_flags(wildcards, input):
    return file_flags(**{name: [input[name]] for name in float_model(wildcards)})


# A model of ready programs may have no checkpoint, and then nothing is computed beside the device.
def device_needs(wildcards):
    on_device = resources.run_needs(build, program_of(wildcards))
    model = build.models[wildcards.model]
    if not model.has_float_model:
        return resources.Needs(on_device.mem_mb, disk_mb=100, runtime=120)
    on_host = qdq_needs(wildcards) if model.pre_gen_pte is None else fp_needs(wildcards)
    return resources.Needs(on_host.mem_mb + on_device.mem_mb, on_host.disk_mb, on_host.runtime + on_device.runtime)


def fp_needs(wildcards):
    return resources.fp_needs(model_sizes(wildcards), int(wildcards.context))


def qdq_needs(wildcards):
    return resources.qdq_needs(model_sizes(wildcards), int(wildcards.context))


rule evaluate_fp:
    """Write fp.json, what the float32 decoder reaches on the tasks, from a checkpoint and its tokenizer."""
    input:
        task_files,
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/evaluation/ctx{context}/fp.json",
        manifest="<artifacts>/{model}/evaluation/ctx{context}/fp.json.manifest.json",
    log:
        "<artifacts>/{model}/evaluation/ctx{context}/fp.log",
    threads: ALL_CORES
    resources:
        **needs(fp_needs),
    params:
        settings=fp_settings,
        texts=task_flags,
        states=states,
        code=code_digest("evaluate_fp.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/evaluate_fp.py"
        " --settings -"
        " --checkpoint {input.checkpoint:q}"
        " --tokenizer {input.tokenizer:q}"
        " {params.texts}"
        " --states {params.states:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


# This and its gates come before the lowering, which a bad recipe may not be worth.
rule evaluate_qdq:
    """Write qdq.json, what the fake-quantised decoder reaches on the tasks, from a checkpoint and its quant attrs."""
    input:
        task_files,
        weights=weights,
        checkpoint="<artifacts>/{model}/checkpoint/model.safetensors",
        config="<artifacts>/{model}/checkpoint/config.json",
        quant_attrs="<artifacts>/{model}/{recipe}/quant_attrs.json",
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/evaluation/ctx{context}/qdq.json",
        manifest="<artifacts>/{model}/{recipe}/evaluation/ctx{context}/qdq.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/evaluation/ctx{context}/qdq.log",
    priority: 1
    threads: ALL_CORES
    resources:
        **needs(qdq_needs),
    params:
        settings=qdq_settings,
        weights=weight_flags,
        texts=task_flags,
        states=states,
        code=code_digest("evaluate_qdq.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/evaluate_qdq.py"
        " --settings -"
        " --checkpoint {input.checkpoint:q}"
        " --quant-attrs {input.quant_attrs:q}"
        " {params.weights}"
        " --tokenizer {input.tokenizer:q}"
        " {params.texts}"
        " --states {params.states:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule check_gates:
    """Write gates.json, if the figures of an evaluation pass the gates of the config."""
    input:
        figures="<artifacts>/{model}/{recipe}/evaluation/ctx{context}/qdq.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/evaluation/ctx{context}/gates.json",
        manifest="<artifacts>/{model}/{recipe}/evaluation/ctx{context}/gates.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/evaluation/ctx{context}/gates.log",
    priority: 1
    localrule: True
    params:
        settings=gate_settings,
        code=code_digest("check_gates.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/check_gates.py"
        " --settings -"
        " --figures {input.figures:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


# Of ready programs, only a device tells the figures.
use rule check_gates as check_ready_gates with:
    input:
        figures="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/evaluation.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/gates.json",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/gates.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/gates.log",


rule evaluate_device:
    """Write evaluation.json, what a device reaches on the tasks, from a program and its tokenizer."""
    input:
        task_files,
        gate,
        unpack(float_files),
        program=program,
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/evaluation.json",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/evaluation.json.manifest.json",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/evaluation.log",
    wildcard_constraints:
        target=EMULATORS,
    threads: ALL_CORES
    resources:
        **{slot: slot_of(slot) for slot in SLOTS},
        **needs(device_needs),
    params:
        settings=device_settings,
        float_model=float_flags,
        texts=task_flags,
        states=states,
        code=code_digest("evaluate_device.py", "emulator"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/evaluate_device.py"
        " --settings -"
        " --devices {here.devices:q}"
        " --device {wildcards.device:q}"
        " --program {input.program:q}"
        " --tokenizer {input.tokenizer:q}"
        " {params.float_model}"
        " {params.texts}"
        " --states {params.states:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


use rule evaluate_device as evaluate_phone with:
    wildcard_constraints:
        target=names(HTP_ARCH),
    localrule: True
    params:
        code=code_digest("evaluate_device.py", "adb"),
