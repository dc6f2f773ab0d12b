"""Names of users and servers: one validator on every path by which a name comes in.

A valid name is safe as it stands in a Traefik rule, in a path of a URL, on a disk and on a page.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from appliance.errors import BadName

MAX_LENGTH = 64
PUNCTUATION = frozenset("._-@")
SMOKE_USER = "smoke-test"    # the box's own account, for its test of itself; nobody else's
# First parts of paths of Jupyter and of what often runs in it: a server of such a name would hide them in the default one.
OF_THE_APP = frozenset((
    "api", "consoles", "custom", "desktop", "doc", "edit", "files", "git-pull", "hub", "lab", "login", "logout", "metrics",
    "nbconvert", "nbextensions", "notebooks", "oauth_callback", "proxy", "rstudio", "static", "terminals", "tree", "user",
    "view", "voila", "vscode"))
GROUP_PUNCTUATION = frozenset(" ._-@+()")
# Letters of other scripts that look like a Latin one: a name made of nothing else is a look-alike of a Latin name.
_LATIN_TWINS = frozenset("аеорсухіјѕԁһԛԝьгкмнтвαοριυνκ")


def normalize_username(name: str) -> str:
    """Return `name` as it is stored and compared: NFKC, lower case, no surrounding blanks. Does not validate."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().lower())


def validate_username(name: str) -> str:
    """Return the normalised `name`. Raises BadName with a sentence that says what is wrong."""
    if len(name) > 4 * MAX_LENGTH:  # before any work, and never into a log or a page
        raise BadName(f"A name has at most {MAX_LENGTH} characters.")
    name = normalize_username(name)
    if not name:
        raise BadName("A name cannot be empty.")
    if len(name) > MAX_LENGTH:
        raise BadName(f"A name has at most {MAX_LENGTH} characters.")
    for char in name:
        if not (_is_letter_or_digit(char) or char in PUNCTUATION):
            raise BadName(f"A name cannot contain {_describe(char)}; use letters, digits, '.', '_', '-' and '@'.")
    if not _is_letter_or_digit(name[0]):
        raise BadName("A name starts with a letter or a digit.")
    if len(name.encode()) > 200:  # a file name has at most 255 bytes, and ours get endings
        raise BadName("That name is too long for the disk; use fewer characters.")
    scripts = {_script(char) for char in name if char.isalpha()}
    if len(scripts) > 1:
        raise BadName("A name uses letters of one alphabet only, because mixed ones can look like another name.")
    letters = {char for char in name if char.isalpha()}
    if letters and scripts != {"LATIN"} and letters <= _LATIN_TWINS:
        raise BadName("That name looks like one in Latin letters; write it with Latin letters.")
    return name


def validate_servername(name: str) -> str:
    """Return `name` of a named server ("" is the default one). Raises BadName."""
    return validate_username(name) if name else ""


def validate_new_servername(name: str) -> str:
    """As validate_servername, for a server that is to be made. Raises BadName for a path of what runs in servers."""
    name = validate_servername(name)
    if name in OF_THE_APP:
        raise BadName(f"“{name}” is a page of every server, so no server can be called that.", action="Choose another name.")
    return name


def validate_new_username(name: str) -> str:
    """As validate_username, for an account that a person is to have. Raises BadName for a name the box keeps for itself."""
    name = validate_username(name)
    if name == SMOKE_USER:
        raise BadName(f"The name {SMOKE_USER} is kept for the box's test of itself; choose another one.")
    return name


def validate_display_name(name: str) -> str:
    """Return what a person is called, in one spelling, without needless blanks; it may be empty. Raises BadName."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if len(name) > 2 * MAX_LENGTH:
        raise BadName(f"A display name has at most {2 * MAX_LENGTH} characters.")
    for char in name:
        if unicodedata.category(char)[0] == "C" and char not in "\u200c\u200d":   # the two that some scripts need
            raise BadName("A display name cannot contain control characters.")
    return name


def validate_groupname(name: str) -> str:
    """Return a group's name, in one spelling. Raises BadName."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not 0 < len(name) <= MAX_LENGTH:
        raise BadName(f"A group's name has at least one and at most {MAX_LENGTH} characters.")
    for char in name:
        if unicodedata.category(char)[0] not in "LMN" and char not in GROUP_PUNCTUATION:
            raise BadName(f"A group's name cannot contain {_describe(char)}; "
                          "use letters, digits, blanks and any of . _ - @ + ( ).")
    return name


def quote_name(name: str) -> str:
    """Return a valid name as it stands in a path of a URL."""
    return quote(name, safe="@~")


def _is_letter_or_digit(char: str) -> bool:
    # NFC letters and decimal digits only: no combining marks, no other numerals, nothing invisible
    return unicodedata.category(char) in ("Ll", "Lo") or char in "0123456789"


def _script(char: str) -> str:
    return unicodedata.name(char, "?").split(" ")[0]


def _describe(char: str) -> str:
    if char.isspace():
        return "a blank"
    if unicodedata.category(char)[0] == "C":
        return "a control character"
    return f"“{char}”" if char.isprintable() else "an invisible character"
