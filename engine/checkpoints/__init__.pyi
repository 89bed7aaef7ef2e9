from .bank_io import bank_of as bank_of, load_bank as load_bank, teachers_of as teachers_of
from .checkpoint import Checkpoint as Checkpoint, Saver as Saver, load as load, save as save
from .identity import identity_of as identity_of
from .run_lock import RunLock as RunLock

__all__ = [
    "Checkpoint",
    "RunLock",
    "Saver",
    "bank_of",
    "identity_of",
    "load",
    "load_bank",
    "save",
    "teachers_of",
]
