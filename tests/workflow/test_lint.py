"""What `snakemake --lint` says is what CONTRIBUTING.md explains, and no more."""

import re

from workflow_tree import REPOSITORY, Tree

EXPLAINED = {
    "Specify a conda environment or container for each rule.",
    "Shell command directly uses variable here from outside of the rule",
    "Mixed rules and functions in same snakefile.",
}


def test_lint_has_nothing_new_to_say():
    output = Tree(REPOSITORY).snakemake("--lint", check=False).stderr
    assert "Lints for rule lower" in output
    assert set(re.findall(r"^    \* (.*?):?$", output, re.MULTILINE)) <= EXPLAINED
