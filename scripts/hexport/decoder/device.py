"""This module says where decoders compute."""

import torch


def device() -> torch.device:
    """Return a CUDA device if torch sees one, and otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> dict[str, str | int]:
    """Return what decoders compute on, for manifests: the last bits of a result can depend on it.

    `device` is "cpu" or the GPU's name, `cpu` the CPU's name, `threads` the number of threads that torch uses.
    """
    where = device()
    return {
        "device": "cpu" if where.type == "cpu" else torch.cuda.get_device_name(where),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
    }


def cpu_model() -> str:
    """Return the CPU's name as Linux gives it, or "unknown"."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "CPU part"))]
    return names[0] if names else "unknown"
