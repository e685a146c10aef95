"""Where decoders compute."""

import torch


def device() -> torch.device:
    """A CUDA device if torch sees one, else the CPU with all its cores."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> dict[str, str | int]:
    """What decoders compute on, for manifests: the last bits of a result can depend on it."""
    where = device()
    return {
        "device": "cpu" if where.type == "cpu" else torch.cuda.get_device_name(where),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
    }


def cpu_model() -> str:
    """The CPU's name, as Linux gives it."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "CPU part"))]
    return names[0] if names else "unknown"
