"""What several modes begin with: keys they need, runs that are finished already, bits that repeat."""

import functools
from collections.abc import Callable

from engine.config import RunConfig, value_at
from engine.core import UserError


def repeatable(command: Callable[[RunConfig], None]) -> Callable[[RunConfig], None]:
    """A mode under its configuration's ``deterministic``, which ends with it: a study runs several in one process."""

    @functools.wraps(command)
    def run(config: RunConfig) -> None:
        from engine.core import deterministic

        with deterministic(config.deterministic):
            command(config)

    return run


def require(config: RunConfig, key: str) -> None:
    """Refuse a configuration without a key that the mode needs.

    Raises:
        UserError: it has no value.
    """
    if not value_at(config, key):
        raise UserError(f"{key}: missing; this mode needs it")
