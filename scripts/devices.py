"""Print the devices of devices.yaml as they are now, and what to do about each problem. Nothing on them is changed.

The exit code is 1 where there is a problem.
"""

import sys
from pathlib import Path

import click

from hexport.config.devices import read_devices
from hexport.errors import one_line_errors
from hexport.tables import table_console


@click.command(help=__doc__)
@click.option("--devices", "file", type=click.Path(path_type=Path), default="devices.yaml", show_default=True)
@one_line_errors
def main(file: Path) -> None:
    devices = read_devices(str(file))

    from hexport.devices.phones.inventory import device_table, problem_lines, take_inventory

    entries = take_inventory(devices.values())
    console = table_console(sys.stdout)
    console.print(device_table(entries), "")
    problems = list(problem_lines(entries))
    for line in problems:
        click.echo(line)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
