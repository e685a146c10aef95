"""This module shows as tables what `compare_layers` found."""

from rich.table import Table

from hexport.errors import HexportError
from hexport.evaluation.layer_comparison import LayerComparison
from hexport.tables import printed_table


def part_table(found: LayerComparison) -> Table:
    """Return the SQNR of what every part puts out, in dB; the last row has the first choices of tokens."""
    columns = "part", "qdq to float, dB", "emulator to float, dB", "emulator to qdq, dB", "departs"
    table = printed_table(columns, figures=columns[1:-1])
    for each in found.parts:
        departing = [point.point for point in each.points if point.departs]
        figures = (_db(db) for db in (each.qdq_db, each.emulator_db, each.emulator_to_qdq_db))
        table.add_row(each.part, *figures, ", ".join(departing[:2]) + (", …" if departing[2:] else ""))
    same = (found.top1_qdq, found.top1_emulator, found.top1_emulator_to_qdq)
    table.add_row(f"same first choice, {found.tokens} tokens", *(f"{part:.1%}" for part in same), "")
    return table


def point_table(found: LayerComparison, part: str | None) -> Table:
    """Return the points of the part of this name; without a name, of the first part where the emulator departs, else of
    the first of all.

    Raises HexportError for the name of no part.
    """
    parts = {each.part: each for each in found.parts}
    first = found.first_departure
    name = part or (first[0] if first else found.parts[0].part)
    if name not in parts:
        raise HexportError(f"there is no part {name}; there are {', '.join(parts)}")
    columns = "step", "qdq noise", "emulator noise", "emulator bias", "max difference", "SQNR, dB"
    table = printed_table((name, "op", *columns, ""), figures=columns)
    for point in parts[name].points:
        noises = (f"{codes:.3f}" for codes in (point.qdq_noise, point.emulator_noise, point.emulator_bias))
        figures = f"{point.scale:.3g}", *noises, str(point.max_difference), _db(point.sqnr_db)
        table.add_row(point.point, point.op, *figures, "departs" if point.departs else "")
    return table


def first_departure(found: LayerComparison) -> str:
    """Return a sentence that says where the emulator departs first, or that it departs nowhere."""
    first = found.first_departure
    if first is None:
        return "The emulator departs nowhere: it is no noisier than fake quantisation."
    return f"The emulator departs first at {first[0]}.{first[1].point} ({first[1].op})."


def _db(db: float | None) -> str:
    return "equal" if db is None else f"{db:.1f}"
