"""Which test coverage.py counts lines for, in processes that outlive the test that started them."""

import sys


def attribute_lines_to(test: str) -> None:
    """Count the lines from here on for a test, where coverage.py measures this process.

    Args:
        test: as PYTEST_CURRENT_TEST has it.
    """
    coverage = sys.modules.get("coverage")
    current = coverage and coverage.Coverage.current()
    if current:
        current.switch_context(test.partition(" ")[0])
