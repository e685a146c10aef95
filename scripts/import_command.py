"""Make entries of config.yaml and devices.yaml from a command line of ExecuTorch's llama.py for Qualcomm chips.

COMMAND is the whole command in quotes, or - for standard input. What is in the files already stays, comments too. A
line tells of each flag that hexport has nothing for.
"""

import sys
import tempfile
from pathlib import Path

import click

from hexport.config.checks import check_socs
from hexport.config.devices import read_devices
from hexport.config.documents import read_yaml
from hexport.config.settings import parse_config
from hexport.errors import HexportError, one_line_errors
from hexport.importing.command import converted_tokenizer, parse_command, words_of
from hexport.importing.entries import entries_of
from hexport.importing.merge import merged_config, merged_devices
from hexport.provenance import write_text


@click.command(help=__doc__)
@click.argument("command")
@click.option("--config", type=click.Path(path_type=Path), default="config.yaml", show_default=True)
@click.option("--devices", type=click.Path(path_type=Path), default="devices.yaml", show_default=True)
@one_line_errors
def main(command: str, config: Path, devices: Path) -> None:
    words = words_of(sys.stdin.read() if command == "-" else command)
    models = (read_yaml(config).get("models") or {}) if config.exists() else {}
    if tokenizer := converted_tokenizer(words):
        _say_where(tokenizer, models, config)
        return
    entries = entries_of(*parse_command(words), models)
    text, changed = merged_config(config, entries)
    of_devices = merged_devices(devices, entries)
    _check(text, of_devices, config)
    write_text(devices, of_devices)
    write_text(config, text)
    for line in (*changed, *entries.notes):
        click.echo(f"note: {line}")
    click.echo(f"{config}: models.{entries.name}; {devices}: {entries.device[0]}")
    click.echo(f"now: .venv/bin/snakemake -n {entries.target}, and without -n")


def _check(config: str, devices: str, name: Path) -> None:
    """Check two texts; raise HexportError where one of them is not what its file may hold."""
    with tempfile.TemporaryDirectory() as folder:
        for file, text in (("config.yaml", config), ("devices.yaml", devices)):
            (Path(folder) / file).write_text(text, encoding="utf-8")
        read_devices(f"{folder}/devices.yaml")
        document = read_yaml(Path(folder) / "config.yaml") | {"devices": f"{folder}/devices.yaml"}
        check_socs(parse_config(document, str(name)), str(name))


def _say_where(tokenizer: str, models: dict, config: Path) -> None:
    """Print how to make the tokenizer.bin of a tokenizer, which is an artifact of a model. Raises HexportError where no
    model has this tokenizer."""
    for name, model in models.items():
        if (model or {}).get("tokenizer") == tokenizer:
            click.echo(f"now: .venv/bin/snakemake artifacts/{name}/tokenizer/tokenizer.bin")
            return
    raise HexportError(
        f"{tokenizer}: no model of {config} has this tokenizer; import the command that exports it first"
    )


if __name__ == "__main__":
    main()
