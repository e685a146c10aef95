"""compare_layers.py: what its tables say of figures, and what it refuses. tests/emulator makes the figures."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from compare_layers import main
from hexport.errors import HexportError
from hexport.evaluation.layer_comparison import LayerComparison, PartNoise, PointNoise
from hexport.evaluation.layer_tables import first_departure, part_table, point_table

NORM = PointNoise("input_norm.rms_norm", "RmsNorm", 0.25, 0.289, 0.289, 0.001, 0, None)
CUT_OFF = replace(NORM, emulator_noise=0.577, emulator_bias=-0.5, max_difference=1, sqnr_db=68.5)
BEHIND = PointNoise("add", "ElementWiseAdd", 0.5, 3.0, 4.4, -0.5, 9, 40.0)
FOUND = LayerComparison(
    8,
    (
        PartNoise("layers.0", 40.0, 39.9, None, (NORM, BEHIND)),
        PartNoise("layers.1", 30.0, 24.0, 25.0, (NORM, CUT_OFF, BEHIND)),
        PartNoise("epilogue", 20.0, 14.0, 15.0, (CUT_OFF,)),
    ),
    *(0.875, 0.75, 0.5),
)


def shown(table) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines()]


def test_the_first_departure_is_the_first_point_that_is_noisier_than_fake_quantisation():
    assert first_departure(FOUND) == "The emulator departs first at layers.1.input_norm.rms_norm (RmsNorm)."
    assert FOUND.as_json()["first_departure"] == {"part": "layers.1", "point": "input_norm.rms_norm"}
    without = replace(FOUND, parts=FOUND.parts[:1])
    assert "departs nowhere" in first_departure(without)
    assert without.as_json()["first_departure"] is None


def test_tables_show_every_part_and_the_points_of_one():
    parts = shown(part_table(FOUND))
    assert parts[1] == ["layers.0", "40.0", "39.9", "equal"]
    assert parts[2] == ["layers.1", "30.0", "24.0", "25.0", "input_norm.rms_norm"]
    assert parts[-1][-3:] == ["87.5%", "75.0%", "50.0%"]
    of_first_departure = shown(point_table(FOUND, None))
    assert of_first_departure[2] == [
        "input_norm.rms_norm",
        "RmsNorm",
        "0.25",
        "0.289",
        "0.577",
        "-0.500",
        "1",
        "68.5",
        "departs",
    ]
    assert len(shown(point_table(FOUND, "layers.0"))) == 1 + 2
    with pytest.raises(HexportError, match=r"no part layers\.7; there are layers\.0, layers\.1, epilogue"):
        point_table(FOUND, "layers.7")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["mine"],
            "artifacts/mine/16a8w/quant_attrs.json: missing; run `snakemake artifacts/mine/16a8w/quant_attrs.json`",
        ),
        (["mime"], "there is no model 'mime'; did you mean mine?"),
        (["mine", "--recipe", "16a8"], "--recipe: unknown recipe '16a8'"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")
    Path("config.yaml").write_text("socs: [SM8650]\nmodels:\n  mine: {checkpoint: here, recipe: 16a8w}\n")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert line in result.output
    assert result.output.count("\n") == 1
