"""This module shows what a verification has found as rows: of tables on the terminal and in cards."""

from rich.console import Console
from rich.table import Table

from hexport.evaluation.layer_tables import first_departure, part_table
from hexport.tables import printed_table
from hexport.verification.verify import Verification


def print_tables(console: Console, verification: Verification, document: dict, locate: bool) -> None:
    """Print what was found; with `locate`, layer by layer and op by op too."""
    for table in tables(document):
        console.print(table, "")
    if locate and document["found"]:
        console.print(layer_table(document), "")
    if layers := verification.ran.layers:
        console.print(part_table(layers), "")
        console.print(first_departure(layers), "")


def tables(document: dict) -> list[Table]:
    """Return the table of the mistakes that were looked for, if the program ran, and behind it the summary."""
    summary = Table.grid(padding=(0, 2))
    summary.add_column(no_wrap=True)
    summary.add_column(overflow="fold")
    for name, value in rows_of(document):
        summary.add_row(name, value)
    if not document["found"]:
        return [summary]
    table = printed_table(MISTAKE_COLUMNS, figures=MISTAKE_COLUMNS[1:-1])
    for row in mistake_rows(document):
        table.add_row(*row)
    return [table, summary]


MISTAKE_COLUMNS = ("mistake", "share", "±", "size, dB", "")


def layer_table(document: dict) -> Table:
    """Return the table of each layer's SQNR in dB: its k and v, which the program's caches hold, against the float
    decoder's.
    """
    columns = "layer", "k to float, dB", "v to float, dB"
    table = printed_table(columns, figures=columns)
    for i, layer in enumerate(document["found"]["layers"]):
        table.add_row(str(i), *(_db(layer[name]).removesuffix(" dB") for name in ("k_db", "v_db")))
    return table


def rows_of(document: dict) -> list[tuple[str, str]]:
    """Return names and values of all that is not a table."""
    program, checkpoint = document["program"], document["checkpoint"]
    lengths = ", ".join(f"{name} {length}" for name, length in program["ar_lengths"].items())
    rows = [
        ("verdict", document["verdict"]),
        *(("fault", fault) for fault in document["faults"]),
        *(("note", note) for note in document["notes"]),
        ("program", f"{program['name']}, {program['bytes'] / 1e6:.1f} MB, {program['soc']} ({program['htp_arch']})"),
        ("sha256", program["sha256"]),
        ("AR lengths", f"{lengths}; context length {program['context_length']}"),
        ("checkpoint", f"{checkpoint['name']} ({checkpoint['family']}, {checkpoint['layers']} layers)"),
        ("its sha256", checkpoint["sha256"]),
    ]
    if document["found"]:
        if document["ran"]["sha256"] != program["sha256"]:
            rows.append(("figures of its twin", f"{document['ran']['name']}, sha256 {document['ran']['sha256']}"))
        rows += _figures(document["found"], document["tokens"])
    versions = {name: version for name, version in document["versions"].items() if version}
    return [*rows, ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]


def _figures(found: dict, tokens: int) -> list[tuple[str, str]]:
    text, answer = found["text"], found["answer"]
    rows = [
        ("logits to float", f"SQNR {_db(text['sqnr_db'])} of {tokens} tokens, less their means"),
        ("KL divergence", f"{_number(text['kl_divergence'])} nats"),
        ("same first choice", f"{text['top1_agreement']:.1%}"),
        (
            "perplexity",
            f"{_number(text['perplexity'])}, float {_number(text['perplexity_float'])}, "
            f"ratio {_number(text['perplexity_ratio'])}",
        ),
    ]
    if found["qdq_float_db"] is not None:
        rows.append(("logits to qdq", f"SQNR {_db(found['qdq_db'])}; of qdq to float {_db(found['qdq_float_db'])}"))
    if "read_again_db" in found:
        rows.append(("in other blocks", _db(found["read_again_db"])))
    said = "" if answer["text"] is None else f": {answer['text']!r}"
    if found["departs"]:
        rows.append(("departs first at", found["departs"]))
    return [
        *rows,
        ("by the decode graph", _db(found["decoded_db"])),
        ("greedy answer", f"{answer['like_float']} of {len(answer['token_ids'])} tokens as float{said}"),
    ]


def mistake_rows(document: dict) -> list[tuple[str, ...]]:
    """Return a row of `MISTAKE_COLUMNS` for each mistake that was looked for."""
    return [
        (
            each["name"],
            f"{each['share']:.3f}" if each["share"] is not None else "",
            f"{each['deviation']:.3f}" if each["deviation"] is not None else "",
            f"{each['level_db']:.1f}" if each["level_db"] is not None else "",
            "made" if each["made"] else "" if each["seen"] else "cannot be seen",
        )
        for each in document["found"]["mistakes"]
    ]


def _db(db: float | None) -> str:
    return "equal" if db is None else f"{db:.1f} dB"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
