"""Verify a .pte, whoever made it, against the checkpoint that it should compute.

PROGRAM is inspected, and run on this host's emulator on the beginning of a text; its logits are compared with those of
the float decoder, of the fake-quantised one where hexport built it, and of decoders that make known mistakes. The exit
code is 0 if it is good, 1 if it is broken, and 2 if it could not be checked. One that the emulator cannot run is as
good as the emulator's build of the same inputs and settings, where that is there. docs/verify.md tells the rest.
"""

import os
import sys
import tempfile
from pathlib import Path

import click

from hexport.errors import HexportError, one_line_errors, report
from hexport.progress import Progress
from hexport.provenance import write_json, write_text
from hexport.tables import table_console

CODES = {"good": 0, "good as its twin": 0, "broken": 1, "not checked": 2}


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
    console = table_console(stdout, width=120)
    progress = Progress(log)
    with progress.library_output_in_log(), tempfile.TemporaryDirectory() as folder:
        try:
            model, tokens, host = _prepared(program, checkpoint, tokenizer, text, Path(folder), progress)
            from hexport.verification.verify import verify

            verification = verify(program, model, tokens, quick, host, locate)
        except (HexportError, OSError) as error:
            for line in report(error, log):
                progress.say(f"error: {line}")
            sys.exit(CODES["not checked"])
        from hexport.verification.document import document_of
        from hexport.verification.tables import print_tables

        document = document_of(verification, checkpoint, model)
        _write(document, output, card)
        print_tables(console, verification, document, locate)
        for fault in verification.faults:
            progress.say(f"error: {program}: {fault}")
        stdout.flush()
        sys.exit(CODES[verification.verdict])


def _prepared(
    program: Path, checkpoint: str, tokenizer: str | None, text: Path | None, folder: Path, progress: Progress
) -> tuple:
    """Return what the program is compared with, the tokens that it reads, and how this host runs it."""
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()
    from hexport.programs.inspection_process import facts_of
    from hexport.verification.emulator import read_apart
    from hexport.verification.sources import model_of, tokens_of
    from hexport.verification.verify import Host

    facts_of(program)  # refused before anything is fetched
    model = model_of(checkpoint, tokenizer, program, folder, progress)
    return model, tokens_of(model, text), Host(facts_of, lambda *job: read_apart(*job, progress), progress)


def _write(document: dict, output: Path | None, card: Path | None) -> None:
    from hexport.verification.card import html_card, markdown_card

    if output:
        write_json(output, document)
    if card:
        write_text(card / "card.md", markdown_card(document))
        write_text(card / "card.html", html_card(document))


if __name__ == "__main__":
    main()
