"""One name for one thing: no public name of the package is there twice, and a rule's script is called as the rule."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS, PACKAGE = ROOT / "scripts", ROOT / "scripts" / "hexport"
# What each runner of phones has, of the same meaning: `phone_runs.py` and `phone_evaluations.py` take either.
OF_EVERY_RUNNER = {"generator", "reader", "read_graph"}


def test_no_class_or_function_has_the_name_of_another_one():
    homes = defaultdict(list)
    for path in sorted([*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")]):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(SCRIPTS)))
    twice = {name: files for name, files in homes.items() if len(files) > 1}
    assert not twice.keys() - OF_EVERY_RUNNER - {"main"}, twice


def test_the_script_of_a_rule_has_its_name():
    for file in (ROOT / "rules").glob("*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)*)", file.read_text(), re.MULTILINE):
            scripts = set(re.findall(r"\b(\w+)\.py\b", body))
            assert scripts <= {name}, f"{file.name}: rule {name} runs {scripts}"
