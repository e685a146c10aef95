"""A model with several recipes and context lengths: what Snakemake runs of it, and what an edit of a list rebuilds."""

import shutil

import pytest
from test_staleness import PROGRAMS_A, PROGRAMS_B, QUANT_ATTRS_A, RUN, TEMPLATES_A, TEMPLATES_B, at, with_recipe
from workflow_tree import Tree, stand_in

RECIPES = "socs: [SM8650]\nrecipes: {narrow: {based_on: 16a8w, kv_bits: 8}}\n"
LOWERED_A = TEMPLATES_A | PROGRAMS_A | RUN
NARROW_A = with_recipe(QUANT_ATTRS_A | LOWERED_A, "narrow")
LONGER_A, LONGEST_A = at(LOWERED_A, 48), at(LOWERED_A, 64)


@pytest.fixture
def tree(tree) -> Tree:
    tree.edit("config.yaml", "socs: [SM8650]\n", RECIPES)
    return tree


@pytest.fixture(scope="module")
def built_of_lists(built, tmp_path_factory) -> Tree:
    """Model a with two recipes and two context lengths, lowered and run by stand-ins: take `lists`."""
    path = tmp_path_factory.mktemp("lists") / "built"
    shutil.copytree(built.path, path, symlinks=True)
    tree = Tree(path)
    tree.edit("config.yaml", "socs: [SM8650]\n", RECIPES)
    tree.edit("config.yaml", "32\n    prompts", "[32, 48]\n    recipe: [16a8w, narrow]\n    prompts")
    stand_in(tree, "lower_templates.py", "compile_shard.py", "assemble_program.py", "run_program.py")
    of_a = LOWERED_A | LONGER_A | NARROW_A | with_recipe(LONGER_A, "narrow")
    assert tree.run() == TEMPLATES_B | PROGRAMS_B | of_a
    return tree


@pytest.fixture
def lists(built_of_lists, tmp_path) -> Tree:
    path = tmp_path / "lists"
    shutil.copytree(built_of_lists.path, path, symlinks=True)
    return Tree(path)


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("32\n    prompts", "[32]\n    recipe: [16a8w]\n    prompts", set()),
        ("32\n    prompts", "[48, 32]\n    prompts", LONGER_A),
        ("32\n    prompts", "32\n    recipe: [narrow, 16a8w]\n    prompts", NARROW_A),
        (
            "32\n    prompts",
            "[32, 48]\n    recipe: [16a8w, narrow]\n    prompts",
            LONGER_A | NARROW_A | with_recipe(LONGER_A, "narrow"),
        ),
    ],
)
def test_what_is_added_to_a_list_is_all_that_is_built(tree, old, new, stale):
    tree.edit("config.yaml", old, new)
    assert tree.stale() == stale


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("[32, 48]", "48", set()),
        ("[32, 48]", "[48, 32.0]", set()),
        ("[16a8w, narrow]", "narrow", set()),
        ("[32, 48]", "[32, 48, 64]", LONGEST_A | with_recipe(LONGEST_A, "narrow")),
    ],
)
def test_an_edit_of_a_list(lists, old, new, stale):
    lists.edit("config.yaml", old, new)
    assert lists.stale() == stale


def test_calibration_data_are_encoded_once_and_calibrated_on_with_each_recipe(lists):
    lists.edit("config.yaml", "Once upon a time,", "Once upon a day,")
    stale = {job for job in lists.stale() if job.startswith(("encode", "calibrate"))}
    assert stale == {"encode_calibration a", "calibrate a/16a8w", "calibrate a/narrow"}


def test_a_pair_that_cannot_be_is_left_out_with_a_note(tree):
    tree.edit("config.yaml", "socs: [SM8650]", "socs: [SM8650, SM8450]")
    tree.edit("config.yaml", "32\n    calibration: {text", "32\n    recipe: narrow\n    calibration: {text")
    tree.edit("config.yaml", "32\n    prompts", "32\n    recipe: [16a8w, narrow]\n    prompts")
    done = tree.snakemake("-n", "export")
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: recipe")]
    assert notes == [
        "note: recipe 16a8w of model a is left out for SM8450: 16a8w has kv_bits 16, which need V73 or newer"
    ]
    assembled = {job for job in tree.stale("export") if job.startswith("assemble_program a")}
    with_narrow = {f"assemble_program a/narrow/32/{soc}/kv" for soc in ("SM8650", "SM8450")}
    assert assembled == with_narrow  # with 16a8w, it is built


def test_a_context_length_of_another_model_is_one_line(tree):
    tree.edit("config.yaml", "32\n    calibration: {text", "48\n    calibration: {text")
    for target in (
        "16a8w/ctx48/SM8650/kv_llama_qnn.pte",
        "16a8w/ctx48/SM8650-emulator/emulator/kv/result.json",
    ):
        done = tree.snakemake("-n", f"artifacts/a/{target}", check=False)
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1] == "error: models.a.max_seq_len: is 32, and not 48; add it there"
