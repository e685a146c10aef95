# A device runs one program at a time, the phones of a SoC as many as they are.
SLOTS = device_slots(build.devices.values())
for slot, count in SLOTS.items():
    workflow.register_resource(slot, count)


def slot_of(slot):
    return lambda wildcards: int(slot in taken_slots(wildcards.device, wildcards.target))


def is_emulator(wildcards):
    return target_named(wildcards.target).emulator


def kind_of(wildcards):
    return "emulator" if is_emulator(wildcards) else "adb"


@one_line_errors
def program(wildcards):
    return matrix.program(build, program_of(wildcards))


@one_line_errors
def run_settings(wildcards):
    return matrix.run_settings(build, place_of(wildcards))


# Only to be there: that a gate is new, or was passed anew, is no reason to run again.
def gate(wildcards):
    files = evaluations.gate(build, wildcards.model, wildcards.recipe, int(wildcards.context))
    return [ancient(file) for file in files]


rule run_program:
    input:
        gate,
        program=program,
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/result.json",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/result.json.manifest.json",
        texts="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/outputs.txt",
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/run.log",
    localrule: True
    # A run on a phone waits for it and takes none of this machine's cores.
    threads: lambda wildcards: int(is_emulator(wildcards))
    resources:
        **{slot: slot_of(slot) for slot in SLOTS},
    params:
        settings=run_settings,
        code=lambda wildcards: code_digest("run.py", kind_of(wildcards)),
    shell:
        # devices.yaml is neither an input nor a parameter: another serial number leaves what ran as it is.
        # Snakemake sets it to `threads`, and OpenMP does not take 0.
        "OMP_NUM_THREADS=1"
        " {PYTHON:q} {workflow.basedir:q}/scripts/run.py"
        " --settings -"
        " --devices {DEVICES:q}"
        " --device {wildcards.device:q}"
        " --program {input.program:q}"
        " --tokenizer {input.tokenizer:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
