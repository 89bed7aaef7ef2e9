"""Where a number was made: machine, versions, commit."""

from engine.made_on import commit, machine, versions

__all__ = ["commit", "machine", "versions"]
