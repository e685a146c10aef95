"""Every row of `what an edit rebuilds`, asserted on the jobs that Snakemake would run."""

import ast
import json
import os
import re
import zipfile
from pathlib import Path

import pytest
from workflow_tree import program_jobs, template_jobs

from hexport import code_digest

RUN = {"run_program a/16a8w/32/SM8650-emulator/emulator/kv"}
ON_PHONE_A = program_jobs("a", "SM8650", "kv")
PROGRAMS_A = ON_PHONE_A | program_jobs("a", "SM8650-emulator", "kv")
PROGRAMS_B = program_jobs("b", "SM8650", "kv")
TEMPLATES_A, TEMPLATES_B = template_jobs("a", 1), template_jobs("b", 1)
ALL_A = {"convert_checkpoint a", "extract_tokenizer a", "encode_calibration a", "calibrate a/16a8w"}
ALL_A |= TEMPLATES_A | PROGRAMS_A | RUN
ALL_B = {"convert_checkpoint b", "extract_tokenizer b", "encode_calibration b", "calibrate b/16a8w"}
ALL_B |= TEMPLATES_B | PROGRAMS_B
RULES = (
    *("convert_checkpoint", "extract_tokenizer", "encode_calibration", "calibrate", "lower_templates"),
    *("compile_shard", "assemble_program", "run_program"),
)
UPSTREAM = {rule: list(RULES[:i]) for i, rule in enumerate(RULES)} | {
    "extract_tokenizer": [],
    "encode_calibration": ["extract_tokenizer"],
    "lower_templates": ["convert_checkpoint"],
}
EVALUATIONS = {
    "evaluate_fp a/32",
    "evaluate_qdq a/16a8w/32",
    "evaluate_device a/16a8w/32/SM8650-emulator/emulator/kv",
}
QUANT_ATTRS_A = {"calibrate a/16a8w", *PROGRAMS_A, *RUN}


def with_recipe(jobs: set[str], recipe: str) -> set[str]:
    return {job.replace("16a8w", recipe) for job in jobs}


def on(jobs: set[str], soc: str) -> set[str]:
    return {job.replace("SM8650", soc) for job in jobs}


def at(jobs: set[str], context_length: int) -> set[str]:
    return {job.replace("/32", f"/{context_length}") for job in jobs}


def in_mode(jobs: set[str], mode: str) -> set[str]:
    return {job.replace("/kv", f"/{mode}") for job in jobs}


LONGER_B = at(TEMPLATES_B | PROGRAMS_B, 48)
HYBRID_A = in_mode(PROGRAMS_A | RUN, "hybrid") | template_jobs("a", 32)
# Lookahead with a step of 16 tokens, and prompts in blocks of 32.
LOOKAHEAD_A = in_mode(PROGRAMS_A | RUN, "lookahead") | template_jobs("a", 16, 32)
ON_ANOTHER_ARCH = on(PROGRAMS_B | ON_PHONE_A, "SM8750") | template_jobs("a", 1, arch="V79")
ON_ANOTHER_ARCH |= template_jobs("b", 1, arch="V79")


def test_nothing_is_stale_after_a_build(tree):
    done = tree.snakemake("-n")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_snakemakes_own_report_has_the_answers_with_what_they_are_of(tree):
    tree.snakemake("--report", "report.zip")
    with zipfile.ZipFile(tree.path / "report.zip") as archive:
        (page,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("report.html")]
        texts = [archive.read(name).decode() for name in archive.namelist() if name.endswith("outputs.txt")]
    assert "What a says to the prompts of the config, on emulator in mode kv." in page
    assert [text.splitlines()[0] for text in texts] == ["Once"]


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("prompts: [Once]", "prompts: [Twice]", RUN),
        ("seq_len: 8", "seq_len: 9", RUN),
        ("seq_len: 8", "seq_len: 8\n    temperature: 0.5", RUN),
        ("seq_len: 8", "seq_len: 8\n    evaluation: {tasks: [wikitext], limit: 1}", EVALUATIONS),
        ("Once upon a time,", "Once upon a day,", {"encode_calibration a", *QUANT_ATTRS_A}),
        ("{text: text.txt}", "{prompts: [Hello there]}", {"encode_calibration b", "calibrate b/16a8w"} | PROGRAMS_B),
        ("max_seq_len: 32\n    calibration: {text", "max_seq_len: 48\n    calibration: {text", LONGER_B),
        ("seq_len: 8", "seq_len: 8\n    prefill_ar_len: 16", set()),
        ("seq_len: 8", "seq_len: 8\n    ngram: 3\n    window: 2\n    gcap: 2", set()),
        ("seq_len: 8", "seq_len: 8\n    modes: [hybrid, kv]", HYBRID_A),
        ("seq_len: 8", "seq_len: 8\n    ngram: 2\n    modes: [lookahead]", LOOKAHEAD_A),
        ("socs: [SM8650]", "socs: [SM8650, SM8750]", ON_ANOTHER_ARCH),
        ("socs: [SM8650]", "socs: [SM8750]", ON_ANOTHER_ARCH),
        ("  b:\n", "  c:\n", {job.replace(" b", " c") for job in ALL_B}),
        ("  b:", "  # a remark\n  b:", set()),
        ("socs: [SM8650]", "socs:\n    - 'SM8650'", set()),
        ("32\n    prompts: [Once]\n    seq_len: 8", "32\n    seq_len: 8\n    prompts: [Once]", set()),
        ("seq_len: 8", "temperature: 0\n    seq_len: 8", set()),
        ("seq_len: 8", "seq_len: 8\n    temperature: 0.0\n    recipe: 16a8w\n    modes: [kv]", set()),
    ],
)  # fmt: skip
def test_an_edit_of_the_config(tree, old, new, stale):
    tree.edit("config.yaml", old, new)
    assert tree.stale() == stale


def test_removing_a_model_rebuilds_nothing(tree):
    config = tree.path / "config.yaml"
    config.write_text(config.read_text().split("  b:")[0])
    assert tree.stale() == set()


def test_a_recipe_of_ones_own(tree):
    recipe = "recipes: {mine: {based_on: 16a8w, overrides: [{points: attention.q_proj, weight_bits: 4}]}}\n"
    tree.edit("config.yaml", "socs: [SM8650]\n", f"socs: [SM8650]\n{recipe}")
    assert tree.stale() == set()
    tree.edit("config.yaml", "seq_len: 8", "seq_len: 8\n    recipe: mine")
    assert tree.stale() == with_recipe(QUANT_ATTRS_A | TEMPLATES_A, "mine")


def test_weights_that_calibration_data_code_are_an_artifact_of_their_own(tree):
    recipe = "recipes: {mine: {based_on: 16a8w, overrides: [{layers: '1', points: attention.q_proj, gptq: true}]}}\n"
    tree.edit("config.yaml", "socs: [SM8650]\n", f"socs: [SM8650]\n{recipe}")
    tree.edit("config.yaml", "seq_len: 8", "seq_len: 8\n    recipe: mine")
    with_weights = with_recipe(QUANT_ATTRS_A | TEMPLATES_A, "mine") | {"quantize_weights a/mine"}
    assert tree.stale() == with_weights
    quantised = {"quantize_weights a/mine", "calibrate a/mine"}
    assert tree.run("artifacts/a/mine/quant_attrs.json") == quantised
    assert tree.stale() == with_weights - quantised
    tree.edit("scripts/hexport/quantization/gptq.py", "SWEEPS = 2", "SWEEPS = 0")
    assert tree.stale() == with_weights


def test_the_data_of_a_recipe(tree):
    file = "scripts/hexport/quantization/recipes/16a8w.yaml"
    tree.edit(file, "weight_bits: 8", "# a remark\nweight_bits: 8")
    assert tree.stale() == set()
    tree.edit(file, "overrides: []", "overrides: [{points: attention.q_proj, weight_bits: 4}]")
    assert tree.stale() == QUANT_ATTRS_A | PROGRAMS_B | TEMPLATES_A | TEMPLATES_B | {"calibrate b/16a8w"}


def test_calibration_text(tree):
    os.utime(tree.path / "text.txt")
    assert tree.stale() == set()
    (tree.path / "text.txt").write_text("Another text altogether, and a longer one at that.\n")
    assert tree.stale() == {"encode_calibration b", "calibrate b/16a8w", *PROGRAMS_B}


def test_checkpoint_files(tree):
    folder = tree.path / "checkpoints" / "b"
    for file in folder.iterdir():
        os.utime(file)
    assert tree.stale() == set()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert tree.stale() == ALL_B - {"extract_tokenizer b", "encode_calibration b"}


def test_devices(tree):
    phone = "  phone: {kind: adb, serial: A1, soc: SM8650}\n"
    (tree.path / "devices.yaml").write_text((tree.path / "devices.yaml").read_text() + phone)
    done = tree.snakemake("-n")
    assert "note: device phone is left out of run and evaluate: build_path is missing" in done.stderr
    assert tree.stale() == set()
    tree.edit("devices.yaml", "A1", "B2")
    assert tree.stale() == set()
    tree.edit("devices.yaml", "emulator: {", "second: {")
    assert tree.stale() == {"run_program a/16a8w/32/SM8650-emulator/second/kv"}


@pytest.mark.parametrize("module", ["tokenizers/chat", "quantization/calibration_data", "decoder/rope"])
def test_a_module_counts_for_the_stages_that_reach_it(tree, module):
    path = tree.path / "scripts" / "hexport" / f"{module}.py"
    text = path.read_text()
    path.write_text(f"# a remark\n{text}")
    assert tree.stale() == set()
    path.write_text(f"{text}\nREVISION = 2\n")
    module_file = code_digest.SCRIPTS / "hexport" / f"{module}.py"
    closures = {rule: code_digest.import_closure(code_digest.SCRIPTS / f"{rule}.py") for rule in RULES}
    reached = {rule for rule, closure in closures.items() if module_file in closure}
    assert reached
    assert tree.stale() == {job for job in ALL_A | ALL_B if reached & {job.split()[0], *UPSTREAM[job.split()[0]]}}


def test_versions_of_the_toolchain(tree):
    """Another executorch makes another program, and the same quant attrs."""
    tree.edit(
        "scripts/hexport/build/matrix.py", "metadata.version(package) for", 'metadata.version(package) + ".1" for'
    )
    assert tree.stale() == TEMPLATES_A | TEMPLATES_B | PROGRAMS_A | PROGRAMS_B | RUN


def test_what_follows_a_stage_runs_only_if_its_output_changed(tree):
    """A change in the code of the first stage that leaves the canonical checkpoint as it was stops there."""
    path = tree.path / "scripts" / "convert_checkpoint.py"
    path.write_text(path.read_text() + "\nREVISION = 2\n")
    assert len(tree.stale()) > 2
    assert tree.run() == {"convert_checkpoint a", "convert_checkpoint b"}
    assert tree.stale() == set()


def test_a_failed_stage_is_not_forgotten(tree):
    """Snakemake alone deletes the outputs and the record of a failed job, and then finds nothing to be done."""
    path = tree.path / "scripts" / "convert_checkpoint.py"
    text = path.read_text()
    path.write_text("import sys\n\nsys.exit('broken')\n")
    assert tree.snakemake("artifacts/b/16a8w/ctx32/SM8650/kv_llama_qnn.pte", check=False).returncode == 1
    path.write_text(f"{text}\nREVISION = 2\n")
    assert "convert_checkpoint b" in tree.stale("artifacts/b/16a8w/ctx32/SM8650/kv_llama_qnn.pte")


def test_a_prompt_reruns_only_the_run(tree):
    program = tree.path / "artifacts/a/16a8w/ctx32/SM8650-emulator/kv_llama_qnn.pte"
    before = program.stat().st_mtime_ns
    tree.edit("config.yaml", "prompts: [Once]", "prompts: [Twice]")
    assert tree.run() == RUN
    assert program.stat().st_mtime_ns == before
    assert tree.stale() == set()


def test_prompts_in_a_file(tree):
    """What it says counts as if it stood in the config: its place and times do not."""
    file, result = (
        tree.path / "talks.json",
        tree.path / "artifacts/a/16a8w/ctx32/SM8650-emulator/emulator/kv/result.json",
    )
    (before,) = json.loads(result.read_text())["prompts"]
    file.write_text('[["Once"]]\n')
    tree.edit("config.yaml", "prompts: [Once]", "prompts: talks.json")
    assert tree.stale() == set()
    file.write_text('[["On", "c"], ["Once"]]')
    assert tree.run() == RUN
    after = json.loads(result.read_text())["prompts"]
    assert [(said["conversation"], said["prompt"]) for said in after] == [(0, "On"), (0, "c"), (1, "Once")]
    assert after[2]["token_ids"] == before["token_ids"]
    file.rename(tree.path / "moved.json")
    tree.edit("config.yaml", "talks.json", "moved.json")
    assert tree.stale() == set()


def test_every_artifact_is_a_target(built):
    files = [file for file in (built.path / "artifacts").rglob("*") if file.is_file() and file.suffix != ".log"]
    assert len(files) > 20
    assert built.stale(*[str(file.relative_to(built.path)) for file in files]) == set()
    assert built.stale("artifacts/b/16a8w/ctx32/SM8750/kv_llama_qnn.pte") == on(PROGRAMS_B, "SM8750") | template_jobs(
        "b", 1, arch="V79"
    )
    assert built.stale("tokenizers", "quantize", "export", "run", "all") == set()


def test_every_parameter_describes_itself(built):
    """Snakemake compares the parameters of a job as a set of values: two of one kind can be equal, and hide an edit."""
    records = [json.loads(file.read_text()) for file in (built.path / ".snakemake/metadata").iterdir()]
    assert {record["rule"] for record in records} == set(RULES)
    for record in records:
        kinds = [kind_of(ast.literal_eval(param), built.path) for param in record["params"]]
        assert {"settings", "code"} <= set(kinds)
        assert len(set(kinds)) == len(kinds), record["params"]


def kind_of(param: str, folder: Path) -> str:
    if re.fullmatch("[0-9a-f]{16}", param):
        return "code"
    if not param or param.startswith("--"):
        return "options"
    if param.startswith("{"):
        assert isinstance(json.loads(param), dict)  # each value has its name beside it
        return "settings"
    assert (folder / param).exists()
    return "path"
