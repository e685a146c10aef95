"""A Slurm of one node for the tests of this folder, where this machine can have one."""

import os
from collections.abc import Iterator

import pytest
from one_node import one_node, why_not

MEMORY_MB = 8000


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which its commands find it."""
    if reason := why_not():
        pytest.skip(reason)
    with one_node(tmp_path_factory.mktemp("slurm"), os.cpu_count(), MEMORY_MB) as variables:
        yield variables
