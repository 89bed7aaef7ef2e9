"""Set before any other import of consequence: nothing goes out, and nothing is readable by others.

What libraries compile lies beside the project. Where the project cannot be written to, such as a clone that several
users share, it lies in the user's own cache folder. Never text of a note: that folder is for code and settings.
"""

import os
import sys
from pathlib import Path

from engine.files import can_be_made

CACHE = Path(__file__).resolve().parents[1] / ".cache"
LIBRARIES = {"TORCH_EXTENSIONS_DIR": "torch_extensions", "TRITON_CACHE_DIR": "triton", "HF_HOME": "huggingface"}


def protect() -> None:
    """Files of this process are for its user only; libraries stay offline, send no telemetry, cache where they can."""
    os.umask(0o077)
    # an environment that was not activated: DeepSpeed looks for pip's ninja on PATH
    own = str(Path(sys.executable).parent)
    if own not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = own + os.pathsep + os.environ.get("PATH", "")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name, folder in LIBRARIES.items():
        os.environ.setdefault(name, str(library_folder(folder)))


def library_folder(name: str) -> Path:
    """Where a library caches: beside the project, else in $XDG_CACHE_HOME or ~/.cache. Writes nothing."""
    own = CACHE / name
    if can_be_made(own):
        return own
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard says to ignore a relative one
        base = os.path.expanduser("~/.cache")
    return Path(base) / "clinical-metaprompt" / name
