"""Reading a full-size checkpoint: Llama 3.2 3B with random bfloat16 weights, 6.4 GB, against a plain copy of the file.

    python benchmarks/checkpoint.py --scratch /a/folder/with/14GB

Hashing the files for the manifests is part of the time.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import click
from measured import HEADER, measured, ratio
from random_checkpoint import published_config, random_tensors, write_random_checkpoint

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert_checkpoint.py"
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


@click.command(help=__doc__)
@click.option("--scratch", type=click.Path(exists=True), help="where to put the files; default: the temporary folder")
def main(scratch: str | None) -> None:
    config = published_config("llama3_2-3b_instruct")
    size = sum(tensor.nbytes for tensor in random_tensors(config))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if shutil.disk_usage(folder).free < 2.2 * size:
            sys.exit(f"{folder}: {2.2 * size / 1e9:.0f} GB are needed; name another folder with --scratch")
        source = Path(folder, "published")
        write_random_checkpoint(source, config)
        os.sync()
        copied = Path(folder, "copy")
        copy = measured("-c", COPY, str(source / "model.safetensors"), str(copied))
        copied.unlink()
        os.sync()
        settings = Path(folder, "settings.json")
        settings.write_text('{"sha256": null, "params": null}')
        output = Path(folder, "canonical", "model.safetensors")
        convert = measured(str(SCRIPT), "--settings", str(settings), "--source", str(source), "--output", str(output))
    print(HEADER, convert.row("convert_checkpoint.py"), copy.row("copy"), ratio(convert, copy), sep="\n")
    print(f"{size / 1e6:.0f} MB: {size / 1e6 / convert.wall_s:.0f} MB/s, a copy {size / 1e6 / copy.wall_s:.0f} MB/s")


if __name__ == "__main__":
    main()
