"""Look at this machine, what is installed on it, phones, Slurm and the Hub: one line each, and how to mend what is bad.

The exit code is 1 where something is bad. A note stands in the way of some uses alone.
"""

from __future__ import annotations

import argparse  # click may be what is missing
import os
import sys
from pathlib import Path

from hexport.doctor.finding import BAD, Finding, findings_json, table
from hexport.doctor.host import look_at_host, package_index

REPOSITORY = Path(__file__).resolve().parents[1]
A_PACKAGE = "click==8.5.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--before-setup", action="store_true", help="look at this machine alone, and print what is bad")
    parser.add_argument("--devices", type=Path, default=Path("devices.yaml"))
    parser.add_argument("--log", type=Path, default=Path("doctor.log"), help="what libraries print")
    options = parser.parse_args()
    findings = look_at_host(REPOSITORY)
    if options.before_setup:
        if sys.prefix != sys.base_prefix:  # in an environment of its own, which has pip
            findings.append(package_index(A_PACKAGE))
        shown = [finding for finding in findings if finding.state == BAD]
        for finding in shown:
            print(f"error: {finding.what}: {finding.found}; {finding.mend}", file=sys.stderr)
    else:
        stdout = os.fdopen(os.dup(1), "w")  # that of the process becomes the log
        findings += installed(options.devices, options.log)
        print(findings_json(findings) if options.json else table(findings), file=stdout, flush=True)
    sys.exit(any(finding.state == BAD for finding in findings))


def installed(devices: Path, log: Path) -> list[Finding]:
    """Return findings on all that is installed; what libraries print goes to the log. Where a package is missing, this
    is the one finding."""
    try:
        from hexport.doctor.installed import look_at_installed
        from hexport.progress import Progress

        with Progress(log).library_output_in_log():
            return list(look_at_installed(devices))
    except ModuleNotFoundError as error:
        return [Finding("packages", BAD, f"{error.name} is missing", "run `make setup`")]


if __name__ == "__main__":
    main()
