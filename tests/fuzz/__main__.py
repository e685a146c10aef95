"""Feed malformed inputs to every reader of hexport: `python tests/fuzz --count 5000 --seed 1`.

Prints a line for each case that was not refused as it should be, with the command that repeats it.
The exit code is 1 if there was one.
"""

import contextlib
import gc
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import TextIO

for place in ("scripts", "tests", "tests/unit", "tests/workflow"):
    sys.path.insert(0, str(Path(__file__).parents[2] / place))
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import click  # noqa: E402
import seeds  # noqa: E402
import server  # noqa: E402
from case import Case, Subject  # noqa: E402
from commands import import_all  # noqa: E402
from judge import faults  # noqa: E402
from subjects import SUBJECTS  # noqa: E402


@click.command(help=__doc__)
@click.option("--count", type=int, default=5000, show_default=True, help="cases of all subjects together")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--subject", "names", multiple=True, type=click.Choice(sorted(SUBJECTS)), help="only these")
@click.option("--torch/--no-torch", default=None, help="only the subjects that need torch, or only the others")
@click.option("--case", "only", type=int, help="only the case of this number, and show what it says")
@click.option("--tiny", "built", type=click.Path(path_type=Path), help="a folder of tiny_model.build_tiny")
@click.option("--json", "report", type=click.File("w"), help="write subjects, counts of cases and failures there")
def main(
    count: int,
    seed: int,
    names: list[str],
    torch: bool | None,
    only: int | None,
    built: Path | None,
    report: TextIO | None,
) -> None:
    chosen = {name: SUBJECTS[name] for name in names or SUBJECTS if torch in (None, SUBJECTS[name].needs_torch)}
    failed, results = 0, []
    with tempfile.TemporaryDirectory(prefix="hexport-fuzz-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        stack.enter_context(server.serving(root / "answers"))
        seeds.make(root / "seeds")
        if any(subject.needs_torch for subject in chosen.values()):
            import_all()
            seeds.make_torch(built)
        logging.disable(
            logging.INFO
        )  # executorch, once imported, has every library say it all, also where none imports it
        gc.freeze()  # a collection in a fork would touch, and so copy, all that there is
        print(f"seed {seed}, {count} cases of {len(SUBJECTS)} subjects", file=sys.stderr)
        for name, subject in chosen.items():
            of_subject = list(_cases(name, subject, -(-count // len(SUBJECTS)), seed))
            found = {}
            for number, case in enumerate(of_subject):
                if only in (None, number) and (lines := faults(case, root / "case", only == number)):
                    found[number] = lines
                    print(f"{name} {number}, {case.name}: {'; '.join(lines)}")
                    print(f"    python tests/fuzz --count {count} --seed {seed} --subject '{name}' --case {number}")
            failed += len(found)
            print(f"{name}: {len(of_subject)} cases, {len(found)} failed", flush=True)
            failures = [f"{of_subject[number].name}: {'; '.join(lines)}" for number, lines in found.items()]
            results.append({"subject": name, "cases": len(of_subject), "failures": failures})
    if report:
        json.dump(results, report)
    sys.exit(1 if failed else 0)


def _cases(name: str, subject: Subject, count: int, seed: int) -> list[Case]:
    """The named cases, or some of them where there are more than three quarters of `count`, and others."""
    random, cases = Random(f"{seed} {name}"), list(subject.named())
    most = -(-3 * count // 4)
    if len(cases) > most:
        cases = random.sample(cases, most)
    return cases + [subject.any_other(Random(f"{seed} {name} {i}")) for i in range(count - len(cases))]


if __name__ == "__main__":
    main()
