"""Kill builds of a tiny model with SIGKILL at random moments: `python tests/chaos --kills 100 --seed 1`.

Each build is fresh, is killed once in a job of every rule, and taken up again after each kill. At the end, its
artifacts are those of a build that nobody disturbed. Prints where the kills fell. The exit code is 1 for a difference.
"""

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import click

ROOT = Path(__file__).parents[2]
for place in ("scripts", "tests", "tests/workflow"):
    sys.path.insert(0, str(ROOT / place))

from killed_build import HOWS, RULES, Build, moments, slow_hub, write_seed  # noqa: E402


@click.command(help=__doc__)
@click.option("--kills", type=int, default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="hexport-chaos-") as folder:
        root = Path(folder).resolve()
        write_seed(root / "hub")
        with slow_hub(root / "hub") as variables:
            sys.exit(_rounds(root, variables, kills, seed))


def _rounds(root: Path, variables: dict[str, str], kills: int, seed: int) -> int:
    undisturbed = Build.new(root / "undisturbed", variables)
    seconds = undisturbed.finish("run")
    expected = undisturbed.artifacts()
    print(f"seed {seed}; undisturbed:", ", ".join(f"{rule} {seconds[rule]:.1f} s" for rule in RULES), flush=True)
    fell: Counter[tuple[str, str]] = Counter()
    missed = wrong = number = 0
    while fell.total() < kills:
        random = Random(f"{seed} {number}")
        build = undisturbed.again(root / "build")
        for rule, moment, how in moments(random, RULES, seconds):
            if fell.total() == kills:
                break
            hit = build.kill(rule, moment, how, "run")
            if hit is None:
                missed += 1
                continue
            fell[hit, how] += 1
            found = build.artifacts()
            if torn := sorted(name for name, digest in found.items() if expected.get(name) != digest):
                wrong += 1
                print(f"build {number}, {how} killed after {moment:.2f} s of {rule}: wrong: {torn}", flush=True)
        build.finish("run")
        if build.artifacts() != expected or build.parts():
            wrong += 1
            differ = sorted({name for name, _ in build.artifacts().items() ^ expected.items()})
            print(f"build {number} differs: {differ}, left: {build.parts()}", flush=True)
        build.end()
        shutil.rmtree(build.path)
        number += 1
        print(f"build {number}: {fell.total()} of {kills} kills, {wrong} wrong", flush=True)
    _print_table(fell)
    print(
        f"{fell.total()} kills in {number} builds; {missed} moments came after their job's end; {wrong} wrong outcomes"
    )
    return 1 if wrong else 0


def _print_table(fell: Counter[tuple[str, str]]) -> None:
    print(f"{'kills in a job of':20}", *(f"{how:>16}" for how in HOWS))
    for rule in RULES:
        print(f"{rule:20}", *(f"{fell[rule, how]:16}" for how in HOWS))


if __name__ == "__main__":
    main()
