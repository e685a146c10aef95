"""Verify a .pte, whoever made it, against the checkpoint that it should compute.

PROGRAM is inspected, and run on this host's emulator on the beginning of a text; its logits are compared with those of
the float decoder, of the fake-quantised one where hexport built it, and of decoders that make known mistakes. The exit
code is 0 if it is good, 1 if it is broken, and 2 if it could not be checked. docs/verify.md tells the rest.
"""

import os
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from hexport.errors import HexportError, one_line_errors, report
from hexport.progress import Progress
from hexport.provenance import write_json, write_text

WIDTH = 120  # of tables that do not go to a terminal
CODES = {"good": 0, "broken": 1, "not checked": 2}


@click.command(help=__doc__)
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--checkpoint", required=True, metavar="PATH|URI", help="as of config.yaml, or a canonical one")
@click.option("--tokenizer", metavar="PATH|URI", help="that the program is used with; default: the checkpoint's")
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8; default: that of the demo")
@click.option("--quick", is_flag=True, help="read 32 tokens in place of 256")
@click.option("--locate", is_flag=True, help="compare all layers; where hexport built it, op by op")
@click.option("--json", "output", type=click.Path(path_type=Path), help="write all figures to this file, too")
@click.option("--card", type=click.Path(path_type=Path), help="write card.md and card.html into this folder")
@click.option("--log", type=click.Path(path_type=Path), default="verify_pte.log", show_default=True)
@one_line_errors
def main(
    program: Path,
    checkpoint: str,
    tokenizer: str | None,
    text: Path | None,
    quick: bool,
    locate: bool,
    output: Path | None,
    card: Path | None,
    log: Path,
) -> None:
    stdout = os.fdopen(os.dup(1), "w")  # that of the process becomes the log
    console = Console(file=stdout, width=None if stdout.isatty() else WIDTH, highlight=False, markup=False)
    progress = Progress(log)
    with progress.library_output_in_log(), tempfile.TemporaryDirectory() as folder:
        try:
            asked = program, checkpoint, tokenizer, text, quick, locate
            verification, document = _verified(*asked, Path(folder), progress)
        except (HexportError, OSError) as error:
            for line in report(error, log):
                progress.say(f"error: {line}")
            sys.exit(CODES["not checked"])
        from hexport.verification.card import html_card, markdown_card
        from hexport.verification.tables import layer_table, tables

        if output:
            write_json(output, document)
        if card:
            write_text(card / "card.md", markdown_card(document))
            write_text(card / "card.html", html_card(document))
        for table in tables(document):
            console.print(table, "")
        if locate and document["found"]:
            console.print(layer_table(document), "")
        if verification.layers:
            from hexport.evaluation.layer_tables import first_departure, part_table

            console.print(part_table(verification.layers), "")
            console.print(first_departure(verification.layers), "")
        for fault in verification.faults:
            progress.say(f"error: {program}: {fault}")
        stdout.flush()
        sys.exit(CODES[verification.verdict])


def _verified(
    program: Path,
    checkpoint: str,
    tokenizer: str | None,
    text: Path | None,
    quick: bool,
    locate: bool,
    folder: Path,
    progress: Progress,
) -> tuple:
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()
    from hexport.programs.inspection_process import facts_of
    from hexport.verification.document import document_of
    from hexport.verification.emulator import read_apart
    from hexport.verification.sources import model_of, tokens_of
    from hexport.verification.verify import verify

    facts = facts_of(program)
    model = model_of(checkpoint, tokenizer, program, folder, progress)
    tokens = tokens_of(model, text)
    verification = verify(facts, model, tokens, quick, lambda *job: read_apart(*job, progress), progress, locate)
    return verification, document_of(verification, checkpoint, model)


if __name__ == "__main__":
    main()
