"""hexport: LLM checkpoints to ExecuTorch programs for the Hexagon NPU. Knows nothing of Snakemake."""

__version__ = "0.1.0"
