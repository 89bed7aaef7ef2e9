"""Set before any other import of consequence: nothing goes out, nothing is readable by others, nothing lands in a home folder."""

import os
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"


def protect() -> None:
    """Files of this process are for its user only; libraries stay offline, send no telemetry and cache beside the project."""
    os.umask(0o077)
    # an environment that was not activated: DeepSpeed looks for pip's ninja on PATH
    own = str(Path(sys.executable).parent)
    if own not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = own + os.pathsep + os.environ.get("PATH", "")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    folders = {"TORCH_EXTENSIONS_DIR": "torch_extensions", "TRITON_CACHE_DIR": "triton", "HF_HOME": "huggingface"}
    folders["WEIGHT_DIGESTS_DIR"] = "digests"
    for name, folder in folders.items():
        os.environ.setdefault(name, str(CACHE / folder))
