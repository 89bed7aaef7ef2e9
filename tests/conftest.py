"""What every test stands on: offline, private, cached in the project's own folder, as train.py sets it."""

import os
from pathlib import Path

import pytest

from engine.protection import protect

protect()
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def clinical_data_root() -> Path:
    """Real public corpora; the test is skipped, and says so, without them."""
    root = os.environ.get("CLINICAL_DATA_ROOT")
    if not root:
        pytest.skip("CLINICAL_DATA_ROOT is not set: real corpora (PubMedQA, BC5CDR, MTS-Dialog) are NOT tested")
    return Path(root)
