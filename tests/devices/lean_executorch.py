"""Makes `import executorch.runtime` cheap, which imports executorch.exir, the exporter, for a decorator in it.

Put on a loopback phone as sitecustomize.py, on which Python imports it at its start. Of executorch.exir, only the files
that are asked for are then loaded, which saves each process of the tests two thirds of its start.
"""

import importlib.util
import sys
import types
from pathlib import Path

EXPORTER = "executorch.exir"


def make_lean() -> None:
    found = importlib.util.find_spec("executorch")
    if found:
        exporter = types.ModuleType(EXPORTER)
        exporter.__path__ = [str(Path(folder, "exir")) for folder in found.submodule_search_locations]
        sys.modules[EXPORTER] = exporter


make_lean()
