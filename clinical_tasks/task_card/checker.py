"""Collects what is wrong with a card. Each reader of a value returns something usable, so that checking goes on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from clinical_tasks.schema import did_you_mean


class Checker:
    """The problems of one card, each with its key, the reason and the fix."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, key: str, reason: str, fix: str) -> None:
        self.problems.append(f"{key}: {reason}; {fix}")

    def keys(self, prefix: str, raw: dict[str, Any], known: Collection[str]) -> None:
        for key in raw:
            if str(key) not in known:
                self.problem(
                    f"{prefix}{key}", f"unknown key{did_you_mean(str(key), known)}", f"known are {', '.join(known)}"
                )

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            self.problem(key, "not a text", "write words, in quotes if they hold a colon")
            return ""
        return str(value)

    def one_of(self, key: str, value: str | None, known: Collection[str]) -> None:
        if value and value not in known:
            self.problem(key, f"unknown value '{value}'{did_you_mean(value, known)}", f"use one of {', '.join(known)}")

    def mapping(self, key: str, value: Any) -> dict[Any, Any]:
        if value is None or isinstance(value, dict):
            return value or {}
        self.problem(key, "not a mapping", "write 'name: value' lines below it")
        return {}

    def names(self, key: str, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        for item in values:
            if not isinstance(item, (str, int)) or isinstance(item, bool):
                self.problem(key, "not a name or a list of names", "write [a, b]")
                return ()
        return tuple(map(str, values))

    def flag(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.problem(key, "not true or false", "write true or false")
        return value is True
