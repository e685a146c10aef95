"""Fitting a recipe to a size: the choice of each weight, the recipe that says so, and the search for a perplexity."""

import fnmatch
import itertools
import math
import random
from xml.etree import ElementTree

import pytest
import yaml

from hexport.decoder.sizes import PUBLISHED
from hexport.errors import HexportError
from hexport.fitting.choices import TABLE_UNIT, as_recipe, candidates, layer_globs, unit_bytes
from hexport.fitting.curve import Choice, Curve, hull
from hexport.fitting.files import curve_csv, curve_svg, recipe_yaml
from hexport.fitting.fit import Fitter
from hexport.fitting.measured import split
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.recipe import Precision
from hexport.quantization.recipe_checks import recipe_from

SIZES = PUBLISHED["smollm2_135m"]
BASE = {
    "weight_bits": 4,
    "granularity": "per_block",
    "block_size": 32,
    "seq_mse": 20,
    "gptq": True,
    "overrides": [
        {"layers": "[0-4]", "points": "attention.v_proj", "weight_bits": 8, "granularity": "per_channel", "seq_mse": 0},
        {"layers": "epilogue", "points": "output", "gptq": False},
    ],
}
RECIPE = recipe_from(BASE, "base")


def random_choices(seed: int, units: int = 5) -> dict:
    numbers = random.Random(seed)
    return {
        (str(i), "attention.q_proj"): [
            Choice(Precision(seq_mse=j), numbers.randint(1, 50), numbers.random()) for j in range(numbers.randint(1, 4))
        ]
        for i in range(units)
    }


@pytest.mark.parametrize("seed", range(20))
def test_at_the_size_of_a_step_no_other_choice_has_less_damage(seed):
    choices = random_choices(seed)
    curve = Curve(choices, other_bytes=7)
    every = [
        (7 + sum(choice.n_bytes for choice in chosen), sum(choice.damage for choice in chosen))
        for chosen in itertools.product(*choices.values())
    ]
    for size, damage in curve.points():
        chosen = curve.within(size)
        assert curve.size_of(chosen) == size
        assert math.isclose(curve.damage_of(chosen), damage, abs_tol=1e-12)
        assert damage <= min(other for n_bytes, other in every if n_bytes <= size) + 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_a_size_between_steps_is_kept_and_used(seed):
    curve = Curve(random_choices(seed), other_bytes=0)
    points = list(curve.points())
    for (size, damage), (larger, _) in itertools.pairwise(points):
        between = curve.within((size + larger) / 2)
        assert size <= curve.size_of(between) <= (size + larger) / 2
        assert curve.damage_of(between) <= damage + 1e-12


def test_what_takes_more_for_no_gain_is_no_choice():
    kept, *others = (Choice(Precision(), *pair) for pair in ((10, 0.5), (20, 0.5), (10, 0.9), (15, 0.6)))
    assert hull([*others, kept]) == [kept]


def test_a_size_that_is_too_small_is_refused_in_one_line():
    with pytest.raises(HexportError, match=r"^1\.0 MB are less than the smallest program takes, 2\.5 MB; give more$"):
        Curve({("0", "x"): [Choice(Precision(), 2_000_000, 1.0)]}, other_bytes=500_000).within(1_000_000)


@pytest.mark.parametrize("layers", [{3}, {0, 1, 2, 3}, {9, 10, 11, 12, 19, 29}, set(range(30)), {7, 8, 20, 22, 23}])
def test_globs_name_the_layers_and_no_others(layers):
    globs = layer_globs(layers, 30)
    assert {i for i in range(30) if any(fnmatch.fnmatchcase(str(i), glob) for glob in globs)} == layers


@pytest.mark.parametrize("seed", range(3))
def test_the_recipe_gives_each_weight_what_was_chosen_in_the_bytes_that_were_said(seed):
    numbers = random.Random(seed)
    units = candidates(RECIPE, SIZES, in_blocks=True)
    chosen = {unit: numbers.choice(precisions) for unit, precisions in units.items()}
    content = as_recipe(RECIPE, SIZES.n_layers, chosen)
    spec = {**BASE, **content, "overrides": [*BASE["overrides"], *content["overrides"]]}
    fitted = recipe_from(spec, "fitted")
    for (place, name), precision in chosen.items():
        point = "embedding.embedding" if (place, name) == TABLE_UNIT else name
        assert fitted.at(place, point) == precision
    differences = [unit_bytes(SIZES, unit, chosen[unit]) - unit_bytes(SIZES, unit, units[unit][0]) for unit in units]
    before, after = (sum(part_bytes(recipe, SIZES, 1024)) for recipe in (RECIPE, fitted))
    assert after - before == sum(differences)


def test_every_weight_may_have_what_the_recipe_gives_it_8_bits_and_blocks():
    units = candidates(RECIPE, SIZES, in_blocks=True)
    assert len(units) == 30 * 7 + 2
    assert all(precisions[0] == RECIPE.at(*unit) for unit, precisions in units.items() if unit != TABLE_UNIT)
    found = {
        name: {(each.weight_bits, each.block_size, each.gptq) for each in units["7", f"feed_forward.{name}"]}
        for name in ("up_proj", "down_proj")
    }
    assert found["up_proj"] == {(4, 16, True), (4, 32, True), (8, None, False)}  # blocks of 64 cannot have 576 channels
    assert found["down_proj"] == found["up_proj"] | {(4, 64, True)}
    assert [each.activation_bits for each in units[TABLE_UNIT]] == [16, 8]
    assert {each.granularity for each in candidates(RECIPE, SIZES, in_blocks=False)["0", "attention.v_proj"]} == {
        "per_channel"
    }


class Measured:
    """A model whose perplexity ratio goes with the bits of its weights."""

    def __init__(self):
        self.asked = []

    def perplexity_ratio(self, recipe) -> float:
        self.asked.append(recipe)
        narrow = sum(recipe.at(str(i), "feed_forward.up_proj").weight_bits == 4 for i in range(30))
        return 1.01 + 0.1 * (narrow / 30) ** 1.5


def fitter() -> Fitter:
    wide = Precision(granularity="per_channel")
    choices = {
        (str(i), "feed_forward.up_proj"): [
            Choice(RECIPE.at("0", "feed_forward.up_proj"), 1_000_000, 0.003 + i * 1e-6),
            Choice(wide, 2_000_000, 0.0),
        ]
        for i in range(30)
    }
    return Fitter(BASE, "base", 30, Curve(choices, other_bytes=10_000_000), Measured())


def test_the_smallest_recipe_that_is_good_enough_is_found_in_a_few_measurements(progress):
    found = fitter()
    fitted = found.to_ratio(1.05, progress)
    assert 1.045 < fitted.perplexity_ratio <= 1.05
    assert len(found.laboratory.asked) <= 6


def test_a_ratio_that_no_recipe_has_is_refused_in_one_line(progress):
    with pytest.raises(HexportError, match=r"^a perplexity ratio of 1\.001 is less than .* has, 1\.0100 at 70\.0 MB; "):
        fitter().to_ratio(1.001, progress)


def test_files_say_what_was_found(progress):
    found = fitter()
    fitted = found.to_size(55_000_000, progress)
    assert fitted.n_bytes == 55_000_000
    text = recipe_yaml(fitted, "base", ["m: 55.0 MB"])
    content = yaml.safe_load(text)
    assert content == {"based_on": "base", **fitted.content}
    assert text.startswith("# m: 55.0 MB\nbased_on: base\n")
    rows = list(found.table())
    lines = [line.split(",") for line in curve_csv(rows).splitlines()]
    assert [line[0] for line in lines if line[3]] == ["size_mb", "40.000", "55.000", "70.000"]
    assert all(line[2] == line[3] for line in lines[1:] if line[3])
    svg = ElementTree.fromstring(curve_svg(rows, "m & n"))
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}circle")) == 3
    assert "m & n" in "".join(svg.itertext())


def test_the_last_quarter_of_the_tokens_judges():
    coding, judging = split([list(range(100)), list(range(100, 200))])
    assert coding == [list(range(100)), list(range(100, 150))]
    assert judging == [list(range(150, 200))]
    with pytest.raises(
        HexportError, match=r"^calibration: 3 tokens are too few to fit a recipe to; give some thousand"
    ):
        split([[1, 2, 3]])


@pytest.fixture
def progress():
    from hexport.progress import Progress

    return Progress()
