"""The flags of ``merge`` that ask for sums of prompts: their form, without torch."""

from collections.abc import Sequence

SUMMED = ("metaprompt", "prompt_tuning")  # methods whose prompts can be summed


def sum_problems(sums: Sequence[str], sum_of: str) -> list[str]:
    """What is wrong with the form of ``--sum`` and ``--sum_of``; whether the tasks have prompts is told of later."""
    problems = []
    for part in sums:
        target, terms = part.partition("=")[::2]
        if not target.strip() or not terms.strip():
            problems.append(f"--sum: must be like NAME=0.5*task1+0.5*task2; got {part!r}")
    method, shots = sum_of.partition("/")[::2]
    if method not in SUMMED or not shots:
        wanted = " or ".join(f"{name}/SHOTS" for name in SUMMED)
        problems.append(f"--sum_of: must be {wanted}; got {sum_of!r}")
    return problems
