"""The corrections in rules/staleness.smk against an oracle, on random edits and failures of a small graph."""

import json
import random
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from forks import FORKS
from workflow_tree import environment

REPOSITORY = Path(__file__).parents[2]
SEEDS, BUILDS = range(3), 4
OPTIONS = ("--cores", "2", "--scheduler", "greedy", "--quiet", "all")
MODELS, TARGETS = "xy", "st"

# job -> the file that it writes, the files that it reads
GRAPH = {}
for m in MODELS:
    GRAPH |= {
        f"convert {m}": (f"{m}/model", [f"source/{m}"]),
        f"tokenize {m}": (f"{m}/tokens", [f"source/{m}"]),
        f"calibrate {m}": (f"{m}/attrs", [f"{m}/model", f"{m}/tokens"]),
    }
    for t in TARGETS:
        GRAPH |= {
            f"lower {m}/{t}": (f"{m}/{t}/program", [f"{m}/model", f"{m}/attrs"]),
            f"run {m}/{t}": (f"{m}/{t}/result", [f"{m}/{t}/program", f"{m}/tokens"]),
        }

SNAKEFILE = """
import json, sys

sys.path.insert(0, "{repository}/scripts")
include: "{repository}/rules/staleness.smk"

settings = json.load(open("settings.json"))


rule all:
    input:
        {targets},
"""
RULE = """
rule:
    name: "{name}"
    input: {inputs}
    output: "{output}"
    params: settings=json.dumps(["{job}", settings["{job}"]])
    shell: "{python} job.py '{job}' {{output}} {{input}}"
"""
# The first setting of a job changes what it writes, the second does not.
JOB = """
import json, sys
from hashlib import sha256

job, output, *inputs = sys.argv[1:]
if job == open("fail").read():
    sys.exit(1)
visible, _ = json.load(open("settings.json"))[job]
with open(output, "w") as file:
    file.write(sha256(repr([job, visible, [open(name).read() for name in inputs]]).encode()).hexdigest())
with open("ran", "a") as file:
    file.write(job + "\\n")
"""


class Oracle:
    """What has to run, and what is then written: a job runs if its settings or the bytes of an input changed."""

    def __init__(self):
        self.seen, self.content = {}, {}

    def build(self, settings: dict, sources: dict) -> list[str]:
        ran = []
        self.content |= sources
        for job, (output, inputs) in GRAPH.items():
            now = (tuple(settings[job]), *(self.content[name] for name in inputs))
            if self.seen.get(job) != now:
                ran.append(job)
                self.seen[job] = now
                text = repr([job, settings[job][0], [self.content[name] for name in inputs]])
                self.content[output] = sha256(text.encode()).hexdigest()
        return sorted(ran)


@pytest.mark.parametrize("seed", SEEDS)
def test_exactly_what_is_stale_runs(tmp_path, seed):
    choose, oracle = random.Random(seed), Oracle()
    settings = {job: [0, 0] for job in GRAPH}
    sources = {f"source/{m}": m for m in MODELS}
    results = [output for job, (output, _) in GRAPH.items() if job.startswith("run")]
    _write_workflow(tmp_path, results)
    for _ in range(BUILDS):
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        for name, text in sources.items():
            if not (tmp_path / name).exists() or (tmp_path / name).read_text() != text:
                (tmp_path / name).write_text(text)
        ran = oracle.build(settings, sources)
        (tmp_path / "ran").write_text("")
        if ran and choose.random() < 0.5:
            (tmp_path / "fail").write_text(choose.choice(ran))
            _snakemake(tmp_path, *choose.choice([[], ["--keep-going"]]))
            (tmp_path / "fail").write_text("")
        assert _snakemake(tmp_path) == 0
        assert sorted((tmp_path / "ran").read_text().splitlines()) == ran
        assert {name: (tmp_path / name).read_text() for name in oracle.content} == oracle.content
        for job in choose.sample(list(GRAPH), choose.choice([0, 1, 1, 2, 4])):
            settings[job][choose.choice([0, 1, 1])] += 1
        if choose.random() < 0.2:
            sources[f"source/{choose.choice(MODELS)}"] += "+"


def test_groups_of_jobs_run_once(tmp_path):
    """With an executor of clusters: while a group runs, other jobs end, and what waits is looked at again."""
    settings = {job: [0, 0] for job in GRAPH}
    _write_workflow(tmp_path, ["x/s/result", "y/s/result"])
    for m in MODELS:
        (tmp_path / f"source/{m}").write_text(m)
    jobs, group = [job for job in GRAPH if not job.endswith("/t")], ["calibrate x", "lower x/s"]
    with open(tmp_path / "Snakefile", "a") as file:
        file.write(f"localrules: {', '.join(_rule(job) for job in jobs if job not in group)}\n")
    options = ["--executor", "here", "--jobs", "2", "--seconds-between-status-checks", "0"]
    options += ["--groups", *(f"{_rule(job)}=group" for job in group)]

    def ran() -> list[str]:
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        (tmp_path / "ran").write_text("")
        assert _snakemake(tmp_path, *options) == 0
        return sorted((tmp_path / "ran").read_text().splitlines())

    assert ran() == sorted(jobs)
    settings["convert x"][1] += 1
    settings["lower x/s"][0] += 1
    assert ran() == ["convert x", "lower x/s", "run x/s"]


def _rule(job: str) -> str:
    return "".join(filter(str.isalpha, job))


def _write_workflow(folder: Path, targets: list[str]) -> None:
    rules = [
        RULE.format(name=_rule(job), job=job, inputs=inputs, output=output, python=sys.executable)
        for job, (output, inputs) in GRAPH.items()
    ]
    snakefile = SNAKEFILE.format(repository=REPOSITORY, targets=", ".join(map(repr, targets)))
    (folder / "Snakefile").write_text(snakefile + "".join(rules))
    (folder / "job.py").write_text(JOB)
    (folder / "fail").write_text("")
    (folder / "source").mkdir()


def _snakemake(folder: Path, *args: str) -> int:
    return FORKS.run("-m", "snakemake", *OPTIONS, *args, cwd=folder, env=environment()).returncode
