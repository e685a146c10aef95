"""What an edit rebuilds where a model is built in every mode; `export` builds programs and runs none."""

import shutil

import pytest
from test_staleness import at
from workflow_tree import Tree, program_jobs, stand_in, template_jobs

KEYS = """\
modes: [kv, hybrid, lookahead]
    prefill_ar_len: 16
    ngram: 3
    window: 2
    gcap: 4
    seq_len: 8
"""
MODES = ("kv", "hybrid", "lookahead")
BLOCKS = ("hybrid", "lookahead")


def programs(*modes: str, **sizes: int) -> set[str]:
    return {job for target in ("SM8650", "SM8650-emulator") for job in program_jobs("a", target, *modes, **sizes)}


def runs(*modes: str) -> set[str]:
    return {f"run_program a/16a8w/32/SM8650-emulator/emulator/{mode}" for mode in modes}


ALL = programs(*MODES) | runs(*MODES) | template_jobs("a", 1, 16)
# What a lookahead step of another shape, and as many tokens with padding, makes anew.
ASSEMBLED = {job for job in programs("lookahead") if job.startswith("assemble_program")}


@pytest.fixture(scope="module")
def built_in_every_mode(built, tmp_path_factory) -> Tree:
    """Model a in every mode. What lowers and runs it is a stand-in: never change this tree, take `modes`."""
    path = tmp_path_factory.mktemp("modes") / "built"
    shutil.copytree(built.path, path, symlinks=True)
    tree = Tree(path)
    tree.edit("config.yaml", "seq_len: 8\n", KEYS)
    stand_in(tree, "lower_templates.py", "compile_shard.py", "assemble_program.py", "run_program.py")
    # A lookahead step has (2 + 4) x 2 tokens, and 16 with padding: templates of blocks of 16 serve both graphs.
    assert tree.run() == ALL | program_jobs("b", "SM8650", "kv") | template_jobs("b", 1)
    return tree


@pytest.fixture
def modes(built_in_every_mode, tmp_path) -> Tree:
    path = tmp_path / "modes"
    shutil.copytree(built_in_every_mode.path, path, symlinks=True)
    return Tree(path)


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("prefill_ar_len: 16", "prefill_ar_len: 32", programs(*BLOCKS) | runs(*BLOCKS) | template_jobs("a", 32)),
        ("ngram: 3", "ngram: 2", programs("lookahead") | runs("lookahead") | template_jobs("a", 8)),
        ("window: 2\n    gcap: 4", "window: 4\n    gcap: 2", ASSEMBLED | runs("lookahead")),
        ("gcap: 4", "gcap: 3", ASSEMBLED | runs("lookahead")),
        ("32\n    prompts: [Once]", "48\n    prompts: [Once]", at(ALL, 48)),
        ("gcap: 4", "gcap: 4\n    num_sharding: 2", programs(*MODES, shards=2) | runs(*MODES)),
        ("prompts: [Once]", "prompts: [Once, more]", runs(*MODES)),
        ("seq_len: 8\n", "seq_len: 9\n", runs(*MODES)),
        ("modes: [kv, hybrid, lookahead]", "modes: [lookahead, kv]", set()),
    ],
)  # fmt: skip
def test_an_edit_of_the_config(modes, old, new, stale):
    modes.edit("config.yaml", old, new)
    assert modes.stale() == stale


def test_an_edit_of_a_mode_runs_it_again_and_no_other(modes):
    modes.edit("config.yaml", "gcap: 4", "gcap: 3")
    assert modes.run() == ASSEMBLED | runs("lookahead")
    assert modes.stale() == set()


def test_export_builds_programs_and_runs_none(modes):
    folder = modes.path / "artifacts" / "a"
    for target in ("SM8650", "SM8650-emulator"):
        shutil.rmtree(folder / "16a8w/ctx32" / target)
    lowered = program_jobs("a", "SM8650", *MODES)
    assert modes.run("export") == lowered
    assert {file.name for file in folder.rglob("*.pte")} == {f"{mode}_llama_qnn.pte" for mode in MODES}
    assert not list(folder.rglob("result.json"))
    shutil.rmtree(folder)
    needed = {"convert_checkpoint a", "extract_tokenizer a", "encode_calibration a", "calibrate a/16a8w"}
    assert modes.stale("export") == needed | lowered | template_jobs("a", 1, 16)
