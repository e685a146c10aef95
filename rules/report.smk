rule write_summary:
    """Write summary.csv, a table of all phases side by side, from all evaluations."""
    input:
        evaluations.evaluations(build),
    output:
        artifact=report("<artifacts>/report/summary.csv", caption="captions/summary.rst", category="Report"),
        manifest="<artifacts>/report/summary.csv.manifest.json",
    log:
        "<artifacts>/report/summary.log",
    localrule: True
    params:
        settings=evaluations.summary_settings(build),
        code=code_digest("write_summary.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/write_summary.py"
        " --settings -"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"


rule write_report:
    """Write index.html, a page of all programs and figures, from all evaluations and runs."""
    input:
        evaluations.evaluations(build),
        matrix.runs(build),
    output:
        artifact=report("<artifacts>/report/index.html", caption="captions/report.rst", category="Report"),
        manifest="<artifacts>/report/index.html.manifest.json",
    log:
        "<artifacts>/report/index.log",
    localrule: True
    params:
        settings=evaluations.report_settings(build),
        code=code_digest("write_report.py"),
    shell:
        "{here.python:q} {here.folder:q}/scripts/write_report.py"
        " --settings -"
        " --output {output.artifact:q}"
        " --log {log:q}"
        " <<< {params.settings:q}"
