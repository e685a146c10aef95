"""Write docs/reference.md, which has every key of config.yaml and devices.yaml, from the schemas."""

from pathlib import Path

import click

from hexport.config.reference import PAGE, reference
from hexport.errors import one_line_errors
from hexport.provenance import write_text


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), default=f"docs/{PAGE}", show_default=True)
@one_line_errors
def main(output: Path) -> None:
    write_text(output, reference())


if __name__ == "__main__":
    main()
