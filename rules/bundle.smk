@one_line_errors
def bundle_settings(wildcards):
    return bundles.bundle_settings(build, program_of(wildcards))


rule write_bundle:
    """Write a bundle, as a folder and as an archive, from a program and its tokenizer."""
    input:
        program="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.pte",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/{mode}_llama_qnn.pte.manifest.json",
        tokenizer="<artifacts>/{model}/tokenizer/tokenizer.json",
        tokenizer_config="<artifacts>/{model}/tokenizer/tokenizer_config.json",
    output:
        artifact="<artifacts>/{model}/{recipe}/ctx{context}/{target}/bundles/{model}-{recipe}-ctx{context}-{target}-{mode}.tar",
        manifest="<artifacts>/{model}/{recipe}/ctx{context}/{target}/bundles/{model}-{recipe}-ctx{context}-{target}-{mode}.tar.manifest.json",
        folder=directory(
            "<artifacts>/{model}/{recipe}/ctx{context}/{target}/bundles/{model}-{recipe}-ctx{context}-{target}-{mode}"
        ),
    log:
        "<artifacts>/{model}/{recipe}/ctx{context}/{target}/bundles/{mode}.log",
    params:
        settings=bundle_settings,
        code=code_digest("write_bundle.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/write_bundle.py"
        " --settings -"
        " --program {input.program:q}"
        " --tokenizer {input.tokenizer:q}"
        " --folder {output.folder:q}"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
