"""How long `snakemake -n` takes when nothing is stale, against importing Snakemake alone.

python benchmarks/dry_run.py
"""

from measured import HEADER, measured, ratio


def main() -> None:
    measured("-m", "snakemake", "run")  # nothing is stale then
    dry_run = measured("-m", "snakemake", "-n", "run")
    imports = measured("-c", "import snakemake.cli")
    print(HEADER, dry_run.row("snakemake -n"), imports.row("import snakemake"), ratio(dry_run, imports), sep="\n")


if __name__ == "__main__":
    main()
