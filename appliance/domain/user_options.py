"""What somebody chose for a server: JSON of the user's own making, kept with the server, and shown to others.

Whatever comes in by a form, a link or the REST API passes `check_user_options`, so that no row can break a listing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from appliance.errors import BadOption

MOST_BYTES = 8 * 1024
MOST_DEPTH = 6
_MOST_KEY = 100


def check_user_options(said: object) -> dict[str, object]:
    """Return `said` if it can be kept. Raises BadOption.

    Keys that begin with two underscores are refused: programs keep marks of their own there.
    """
    if not isinstance(said, Mapping):
        raise BadOption("“user_options” has to be an object of names and values.")
    _check(said, 1)
    try:
        text = json.dumps(said, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError):     # NaN; half of a surrogate pair
        raise BadOption("“user_options” holds something that is not JSON.") from None
    if size > MOST_BYTES:
        raise BadOption(f"“user_options” may have {MOST_BYTES // 1024} KB at most.")
    kept: dict[str, object] = json.loads(text)
    return kept


def _check(value: object, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise BadOption("“user_options” is nested too deeply.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str) or not 0 < len(key) <= _MOST_KEY or key.startswith("__") or not key.isprintable():
                raise BadOption("“user_options” has a name that cannot be used: names are text of at most "
                                f"{_MOST_KEY} characters that does not begin with “__”.")
            _check(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, str):
        if "\0" in value:       # which PostgreSQL does not keep
            raise BadOption("“user_options” holds a character that cannot be kept.")
    elif isinstance(value, (int, float)):
        if abs(value) > 1e300:
            raise BadOption("“user_options” holds a number that is too large.")
    elif value is not None:
        raise BadOption("“user_options” holds something that is not JSON.")
