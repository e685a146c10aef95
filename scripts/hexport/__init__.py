"""hexport turns LLM checkpoints into ExecuTorch programs for the Hexagon NPU. This package knows nothing of
Snakemake."""

__version__ = "0.1.0"
