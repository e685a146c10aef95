"""Where decoders compute."""

import torch


def device() -> torch.device:
    """A CUDA device if torch sees one, else the CPU with all its cores."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """What manifests and logs call it: `cpu`, or `cuda (NVIDIA H200)`. Its results differ in their last bits."""
    kind = device().type
    return f"{kind} ({torch.cuda.get_device_name()})" if kind == "cuda" else kind
