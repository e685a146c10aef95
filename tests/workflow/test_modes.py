"""What an edit rebuilds where a model is built in every mode; `export` builds programs and runs none."""

import shutil

import pytest
from test_staleness import at
from workflow_tree import Tree, stand_in

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


def programs(*modes: str) -> set[str]:
    return {f"lower a/16a8w/32/{target}/{mode}" for target in ("SM8650", "SM8650-emulator") for mode in modes}


def runs(*modes: str) -> set[str]:
    return {f"run_program a/16a8w/32/SM8650-emulator/emulator/{mode}" for mode in modes}


@pytest.fixture(scope="module")
def built_in_every_mode(built, tmp_path_factory) -> Tree:
    """Model a in every mode. What lowers and runs it is a stand-in: never change this tree, take `modes`."""
    path = tmp_path_factory.mktemp("modes") / "built"
    shutil.copytree(built.path, path, symlinks=True)
    tree = Tree(path)
    tree.edit("config.yaml", "seq_len: 8\n", KEYS)
    stand_in(tree, "lower.py", "run.py")
    assert tree.run() == programs(*MODES) | runs(*MODES) | {"lower b/16a8w/32/SM8650/kv"}
    return tree


@pytest.fixture
def modes(built_in_every_mode, tmp_path) -> Tree:
    path = tmp_path / "modes"
    shutil.copytree(built_in_every_mode.path, path, symlinks=True)
    return Tree(path)


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("prefill_ar_len: 16", "prefill_ar_len: 32", programs(*BLOCKS) | runs(*BLOCKS)),
        ("ngram: 3", "ngram: 2", programs("lookahead") | runs("lookahead")),
        ("window: 2\n    gcap: 4", "window: 4\n    gcap: 2", programs("lookahead") | runs("lookahead")),
        ("gcap: 4", "gcap: 3", programs("lookahead") | runs("lookahead")),
        ("32\n    prompts: [Once]", "48\n    prompts: [Once]", at(programs(*MODES) | runs(*MODES), 48)),
        ("gcap: 4", "gcap: 4\n    num_sharding: 2", programs(*MODES) | runs(*MODES)),
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
    assert modes.run() == programs("lookahead") | runs("lookahead")
    assert modes.stale() == set()


def test_export_builds_programs_and_runs_none(modes):
    folder = modes.path / "artifacts" / "a"
    for target in ("SM8650", "SM8650-emulator"):
        shutil.rmtree(folder / "16a8w/ctx32" / target)
    lowered = {f"lower a/16a8w/32/SM8650/{mode}" for mode in MODES}
    assert modes.run("export") == lowered
    assert {file.name for file in folder.rglob("*.pte")} == {f"{mode}_llama_qnn.pte" for mode in MODES}
    assert not list(folder.rglob("result.json"))
    shutil.rmtree(folder)
    needed = {"convert_checkpoint a", "extract_tokenizer a", "encode_calibration a", "calibrate a/16a8w"}
    assert modes.stale("export") == needed | lowered
