# A device runs one program at a time, and the phones of a SoC run as many as they are.
SLOTS = device_slots(build.devices.values())
for slot, count in SLOTS.items():
    workflow.register_resource(slot, count)


def slot_of(slot):
    return lambda wildcards: int(slot in taken_slots(wildcards.device, wildcards.target))


EMULATORS = f"({names(HTP_ARCH)}){EMULATOR_SUFFIX}"


def run_needs(wildcards):
    return resources.run_needs(build, program_of(wildcards))


@one_line_errors
def program(wildcards):
    file = matrix.program(build, program_of(wildcards))
    return kept_here(file) if build.models[wildcards.model].pre_gen_pte else file


@one_line_errors
def run_settings(wildcards):
    return matrix.run_settings(build, place_of(wildcards))


# A gate only has to be there: that it is new, or was passed anew, is no reason to run again.
def gate(wildcards):
    files = evaluations.gate(build, wildcards.model, wildcards.recipe, int(wildcards.context))
    return [ancient(file) for file in files]


rule run_program:
    """Write answers and speed, from a program and its tokenizer on a device."""
    input:
        gate,
        program=program,
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/result.json",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/result.json.manifest.json",
        texts=report(
            "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/outputs.txt",
            caption="captions/answers.rst",
            category="Answers",
            labels={name: f"{{{name}}}" for name in ("model", "recipe", "context", "target", "device", "mode")},
        ),
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/{device}/{mode}/run.log",
    wildcard_constraints:
        target=EMULATORS,
    resources:
        **{slot: slot_of(slot) for slot in SLOTS},
        **needs(run_needs),
    params:
        settings=run_settings,
        code=code_digest("run_program.py", "emulator"),
    shell:
        # devices.yaml is neither an input nor a parameter: another serial number leaves what ran as it is.
        # Snakemake sets OMP_NUM_THREADS to `threads`, and OpenMP does not take 0.
        "OMP_NUM_THREADS=1"
        " {here.python:q} {here.folder:q}/scripts/run_program.py"
        " --settings -"
        " --devices {here.devices:q}"
        " --device {wildcards.device:q}"
        " --program {input.program:q}"
        " --tokenizer {input.tokenizer:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


# This runs where the phones are, which is not on a node of a cluster. It waits for the phone and takes none of this
# machine's cores.
use rule run_program as run_on_phone with:
    wildcard_constraints:
        target=names(HTP_ARCH),
    localrule: True
    threads: 0
    resources:
        **{slot: slot_of(slot) for slot in SLOTS},
    params:
        code=code_digest("run_program.py", "adb"),
