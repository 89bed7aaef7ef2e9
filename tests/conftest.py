"""What every test stands on: offline, private, cached in the project's own folder, as train.py sets it."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest

from engine.core.privacy import protect

protect()
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


# The interpreter of Triton 3.6 takes a loop's bounds for arrays of one number, which NumPy 2.4 does not turn into an
# int. Later releases squeeze them, as this does. Kernels on a GPU do not go through it.
LOOP_BOUNDS = """
import triton.runtime.interpreter as _interpreter

def _with_scalars(tensor, scope, _patch=_interpreter._patch_lang_tensor):
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

_interpreter._patch_lang_tensor = _with_scalars
"""


# folders whose tests train, start processes or read every document; in this order, what takes longest first
SLOW = ("slurm", "end_to_end", "distributed", "faults", "docs", "tools")


def pytest_configure(config: pytest.Config) -> None:
    """Where coverage is measured: the processes that tests start only on request, for they take half as long again."""
    starts_workers = not hasattr(config, "workerinput") and bool(getattr(config.option, "numprocesses", 0))
    if not starts_workers and os.environ.get("COVERAGE") != "all":
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of whole folders, and those in Triton's interpreter, as slow. Workers (pytest-xdist) share out the
    files in the order of the tests: what takes long goes first, so that no worker is left with it.
    """
    folders = {item: item.path.relative_to(ROOT / "tests").parts[0] for item in items}
    for item, folder in folders.items():
        if folder in SLOW or "interpreted" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: SLOW.index(folders[item]) if folders[item] in SLOW else len(SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file go to one worker, so that its fixtures are made once; those on SLURM too, which share a
    cluster. Groups of pytest-xdist 3.8 have no effect under pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/slurm" if nodeid.startswith("tests/slurm/") else nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session")
def project() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def interpreted() -> Callable[..., str]:
    """``interpreted(code, *arguments)``: what Python prints with Triton's interpreter, in a process of its own: it
    is chosen as triton is imported.
    """
    pytest.importorskip("triton", reason="triton is not installed: its kernels are NOT tested")
    before = LOOP_BOUNDS if importlib.metadata.version("triton").startswith("3.6.") else ""

    def run(code: str, *arguments: str) -> str:
        command, env = [sys.executable, "-c", before + code, *arguments], os.environ | {"TRITON_INTERPRET": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def clinical_data_root() -> Path:
    """Real public corpora; the test is skipped, and says so, without them."""
    root = os.environ.get("CLINICAL_DATA_ROOT")
    if not root:
        pytest.skip("CLINICAL_DATA_ROOT is not set: real corpora (PubMedQA, BC5CDR, MTS-Dialog) are NOT tested")
    return Path(root)


@pytest.fixture(scope="session")
def exact_norms() -> Callable[[Any], None]:
    """``exact_norms(model)``: RMSNorm in the model's own dtype. transformers computes it in fp32, whatever that is."""
    from torch.nn.functional import rms_norm

    def forward(self: Any, hidden: Any) -> Any:
        return rms_norm(hidden, self.weight.shape, self.weight, self.variance_epsilon)

    def change(model: Any) -> None:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = MethodType(forward, module)

    return change
