"""What a run writes while it trains: log lines, event files, checkpoints."""

from dataclasses import dataclass
from functools import partial

from engine.config import keys

key = partial(keys.key, on_resume="free", in_step=False)


@dataclass
class LogConfig:
    """Log lines and event files."""

    interval: int = key(10, "Steps between log lines.", modes=keys.READERS, above=0)
    tensorboard: bool = key(True, "Write TensorBoard event files.", modes=keys.READERS)


@dataclass
class CheckpointConfig:
    """Checkpoints of a run."""

    interval: int = key(100, "Steps between checkpoints; the last step is always saved.", above=0)
    keep: int = key(2, "Number of newest checkpoints to keep.", above=0)
