"""The nearest known word to a mistyped one."""

from collections.abc import Iterable


def nearest(word: object, known: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The known word that is most like ``word``; None where none is."""
    import difflib  # a right command needs no suggestion

    close = difflib.get_close_matches(str(word), map(str, known), 1, cutoff)
    return next(iter(close), None)


def did_you_mean(word: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """``; did you mean 'x'?`` or nothing."""
    close = nearest(word, known, cutoff)
    return f"; did you mean {close!r}?" if close else ""


def shown_key(key: str) -> str:
    """A key as a message names it. A long one may be a line of a note that slipped into the file: it is not quoted."""
    return key if len(key) < 60 else f"<{len(key)} characters>"
