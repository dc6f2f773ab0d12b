"""Which name may have been meant by one that there is not."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(said: object, known: Iterable[str]) -> str:
    """Return "; the nearest is “image”", "" where nothing is like it."""
    found = get_close_matches(str(said)[:200], list(known), 1)
    return f"; the nearest is “{found[0]}”" if found else ""


def no_such_keys(what: str, unknown: Iterable[str], known: Iterable[str], hints: Iterable[tuple[str, str]] = ()) -> str:
    """Return a sentence about keys that `what` has not. hints: what to do about keys of another program."""
    names, known = list(unknown), list(known)
    hint = next((words for key, words in hints if key in names), "")
    near = next(filter(None, (nearest(name, known) for name in names)), "")
    listed = f"known are {', '.join(known)}"
    return f"{what} has no {', '.join(names)}" + (f"; {hint}." if hint else f"{near}{', and' if near else ';'} {listed}.")
