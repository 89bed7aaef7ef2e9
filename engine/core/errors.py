"""What a user can put right."""


class UserError(ValueError):
    """The configuration, data or command is wrong. Exit code 2; nothing was started.

    Args:
        problems: one line each, all that were found: where, what, and how to put it right. Never note text.
    """

    def __init__(self, problems: list[str] | str):
        if isinstance(problems, str):
            problems = [problems]
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class Stopped(Exception):
    """Training stopped on request, its checkpoint written. Exit code 75."""

    def __init__(self, stage: str, step: int, total: int):
        super().__init__(
            f"{stage}: stopped at step {step} of {total} as requested; run the same command again to continue"
        )


class Slower(Exception):
    """A benchmark was compared with an earlier one, and a step takes longer beyond the spread. Exit code 3."""


class DoesNotFit(Exception):
    """A plan has been printed, and its configuration does not fit the machine as written. Exit code 3."""
