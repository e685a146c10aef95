"""Where decoders compute."""

import torch


def device() -> torch.device:
    """A CUDA device if torch sees one, else the CPU with all its cores."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
