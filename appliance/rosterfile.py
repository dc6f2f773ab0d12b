"""Reads lists of people as schools have them: CSV of any spreadsheet, or JSON. Nothing is written here.

Every mistake of a file is collected, so that all are said at once.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.domain.names import validate_display_name, validate_groupname, validate_new_username
from appliance.errors import BadInput, BadName

MAX_BYTES = 10 << 20
MAX_ROWS = 20_000

# the fields in the order they are taken in where a file has no header
FIELDS = ("name", "display_name", "groups", "password", "admin")
# spelt as `_plain` makes them
_SYNONYMS = {
    "name": "login username user account loginname accountname userid uid benutzername benutzer kennung anmeldename "
            "nutzername konto utilisateur identifiant nomutilisateur usuario nombreusuario utente nomeutente gebruikersnaam",
    "display_name": "displayname fullname realname anzeigename vollername namevorname vornamename nomcomplet nombrecompleto "
                    "nomecompleto student schuler schulerin pupil",
    "first_name": "firstname givenname vorname prenom nombre nome",
    "last_name": "lastname surname familyname nachname familienname nom apellido apellidos cognome",
    "groups": "group groups class classes klasse klassen gruppe gruppen kurs kurse course courses classe groupe groupes "
              "clase grupo grupos gruppo gruppi section form team",
    "password": "password passwort kennwort pass motdepasse contrasena clave wachtwoord",
    "admin": "admin isadmin administrator teacher lehrer lehrkraft lehrperson enseignant profesor docente",
    "must_change_password": "mustchangepassword mustchange",
}
_FIELD_OF = {word: field for field, words in _SYNONYMS.items() for word in words.split()}
_AMBIGUOUS = "name"           # what people are called, if another column is the login; else the login
_YES = frozenset(["yes", "y", "true", "1", "x", "ja", "j", "oui", "o", "si", "s", "wahr", "vrai", "admin", "teacher"])
_NO = frozenset(["no", "n", "false", "0", "nein", "non", "falsch", "faux", "student"])
_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Problem:
    line: int                  # 0 where it is not one of a line
    sentence: str


@dataclass(frozen=True)
class Person:
    """One row. What is None is left as it is; of a new account it is empty."""

    line: int
    name: str
    display_name: str | None = None
    groups: tuple[str, ...] | None = None
    password: str | None = field(default=None, repr=False)
    admin: bool | None = None
    must_change_password: bool = True


@dataclass(frozen=True)
class Roster:
    people: tuple[Person, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()


def read(data: bytes, kind: str = "") -> Roster:
    """Take a file apart. kind: "csv", "json", or "" to look at the file itself. Raises BadInput where it is no list at all."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"That file is larger than {MAX_BYTES >> 20} MB, so it is no list of people.")
    text, warnings = decode(data)
    if "\0" in text:
        raise BadInput("That file is not text.", action="Save it as CSV; a spreadsheet's own format cannot be read.")
    if kind == "json" or (not kind and text.lstrip()[:1] in ("[", "{")):
        people, problems = _of_json(text)
    else:
        people, problems, more = _of_csv(text)
        warnings += more
    if len(people) > MAX_ROWS:
        raise BadInput(f"That file has more than {MAX_ROWS} rows.")
    problems += list(_twice(people))
    return Roster(tuple(people), tuple(sorted(problems, key=lambda problem: problem.line)), tuple(warnings))


def decode(data: bytes) -> tuple[str, list[str]]:
    """Return the text of a file of unknown encoding, and what had to be guessed."""
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise BadInput("That file is a spreadsheet's own format.", action="In the spreadsheet choose “Save as” and CSV.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decoded(data, "utf-16"), []
    if data[:2].count(0) == 1 and data.count(0) > len(data) // 4:   # UTF-16 without a mark, as some programs write it
        return _decoded(data, "utf-16-be" if data[0] == 0 else "utf-16-le"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        guessed = ["The file is not UTF-8; it was read as Latin-1 (Windows). Check names with accents, "
                   f"the first at byte {error.start + 1}."]
    try:
        return data.decode("cp1252"), guessed
    except UnicodeDecodeError:
        return data.decode("latin-1"), guessed


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput("That file begins like UTF-16 and is broken further on.", action="Save it as UTF-8.") from error


# ------------------------------------------------------------------------------------------------------------- CSV --
def _of_csv(text: str) -> tuple[list[Person], list[Problem], list[str]]:
    said, text, skipped = _said_separator(text)
    separator = said or _separator(text)
    people: list[Person] = []
    problems: list[Problem] = []
    warnings: list[str] = []
    columns: list[str] = []
    for line, cells in _rows(text, separator, problems):
        line += skipped
        if not columns:
            columns, header = _columns(cells)
            if header:
                warnings += [f"The column “{cell.strip()}” is not known and was left out."
                             for cell, column in zip(cells, columns, strict=True) if not column and cell.strip()]
                problems += _problems_of_header(line, columns)
                if problems:
                    break
                continue
            warnings.append("The file has no header; its columns were taken as: "
                            f"{', '.join(column.replace('_', ' ') for column in columns[:len(cells)])}.")
        if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns):]):
            problems.append(Problem(line, f"There are {len(cells)} cells, but only {len(columns)} columns; "
                                          f"a cell that holds “{separator}” needs quotes around it."))
            continue
        said_of = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        _take(people, problems, line, _from_cells(said_of))
    return people, problems, warnings


def _said_separator(text: str) -> tuple[str, str, int]:
    """Excel writes "sep=;" as a first line of its own."""
    match = re.match(r"sep=([,;|\t])[ ]*\r?\n", text, re.IGNORECASE)
    return (match[1], text[match.end():], 1) if match else ("", text, 0)


def _separator(text: str) -> str:
    """The one that the first rows have, outside quotes, most evenly."""
    lines = [re.sub(r'"[^"]*"', "", line) for line in text[:20_000].splitlines()[:20] if line.strip()]

    def fitness(separator: str) -> tuple[int, int]:
        counts = [line.count(separator) for line in lines]
        return (min(counts), max(counts)) if counts else (0, 0)

    return max(_SEPARATORS, key=fitness)


def _rows(text: str, separator: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row that is not blank; a row may go over several lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a quote that begins here never ends" if "unexpected end" in str(error) else "its quotes do not fit"
            problems.append(Problem(line, f"This row cannot be read: {what}."))
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _columns(cells: Sequence[str]) -> tuple[list[str], bool]:
    """Return what each column is ("": unknown) and whether these cells are a header."""
    words = [_plain(cell) for cell in cells]
    columns = [_FIELD_OF.get(word, "") for word in words]
    if _AMBIGUOUS in words:
        place = words.index(_AMBIGUOUS)
        if "name" not in columns:
            columns[place] = "name"
        elif "first_name" in columns:
            columns[place] = "last_name"
        else:
            columns[place] = "display_name"
    known = sum(bool(column) for column in columns)
    # a row of people is no header even if one of them is called Nom; but nobody's login is “login”
    if known and (known >= 2 or len(list(filter(None, words))) == 1 or any(_FIELD_OF.get(word) == "name" for word in words)):
        return columns, True
    if len(cells) > len(FIELDS):
        raise BadInput("The first row is no header that can be understood, and there are more columns than "
                       f"{', '.join(FIELDS)}.", action="Write a header: name, display name, group, password, admin.")
    return list(FIELDS), False


def _problems_of_header(line: int, columns: Sequence[str]) -> Iterator[Problem]:
    if "name" not in columns:
        yield Problem(line, "No column holds the login; call it “name”, “login” or “username”.")
    for column in dict.fromkeys(columns):
        if column and column != "groups" and columns.count(column) > 1:
            yield Problem(line, f"Two columns say the {column.replace('_', ' ')}.")


def _plain(word: str) -> str:
    """"Vollständiger Name " and "vollstaendiger_name" are to be compared by their letters alone."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in letters if "a" <= char <= "z" or char.isdigit())


def _from_cells(said: Mapping[str, str]) -> dict[str, object]:
    """Empty cells change nothing, but for groups: whoever has none there is in none."""
    row: dict[str, object] = {name: cell for name, cell in said.items() if cell and name}
    parts = [said.get("first_name", ""), said.get("last_name", "")]
    if any(parts) and not row.get("display_name"):
        row["display_name"] = " ".join(part for part in parts if part)
    for part in ("first_name", "last_name"):
        row.pop(part, None)
    if "groups" in said:
        row["groups"] = [group for group in re.split(r"[,;|]", said["groups"]) if group.strip()]
    return row


# ------------------------------------------------------------------------------------------------------------ JSON --
_KEYS = {"name": "name", "username": "name", "display_name": "display_name", "group": "groups", "groups": "groups",
         "password": "password", "admin": "admin", "must_change_password": "must_change_password"}


def _of_json(text: str) -> tuple[list[Person], list[Problem]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"That is not JSON: {error}.") from error
    if isinstance(rows, dict) and isinstance(rows.get("users"), list):
        rows = rows["users"]
    if not isinstance(rows, list):
        raise BadInput("The JSON has to be a list of people.", action='Write it like [{"name": "ada", "groups": ["10a"]}].')
    people: list[Person] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            row = {"name": row}
        if not isinstance(row, dict):
            problems.append(Problem(number, "An entry is a name, or an object with “name”."))
            continue
        unknown = [str(key) for key in row if key not in _KEYS]
        if unknown:
            problems.append(Problem(number, f"“{unknown[0][:40]}” is not known here; known are {', '.join(sorted(_KEYS))}."))
            continue
        _take(people, problems, number, {_KEYS[key]: value for key, value in row.items() if value is not None})
    return people, problems


# ------------------------------------------------------------------------------------------------------- both kinds --
def _take(people: list[Person], problems: list[Problem], line: int, row: Mapping[str, object]) -> None:
    """Check one row's values; all that is wrong with it is said."""
    found: dict[str, object] = {}
    wrong: list[str] = []
    for name, check in (("name", _name), ("display_name", _display_name), ("groups", _groups), ("password", _password),
                        ("admin", _flag), ("must_change_password", _flag)):
        if name in row or name == "name":
            try:
                found[name] = check(row.get(name, ""))
            except BadInput as error:
                wrong.append(error.sentence)
    problems += [Problem(line, sentence) for sentence in wrong]
    if not wrong:
        people.append(Person(line, **found))  # type: ignore[arg-type]  # each checked above


def _name(value: object) -> str:
    text = _text(value, "name")
    try:
        return validate_new_username(text)
    except BadName as error:
        shown = text.strip()[:40]
        raise BadName(f"“{shown}”: {error.sentence}" if shown.isprintable() and shown else error.sentence) from error


def _display_name(value: object) -> str:
    return validate_display_name(_text(value, "display name"))


def _groups(value: object) -> tuple[str, ...]:
    names: Iterable[object] = value if isinstance(value, (list, tuple)) else [value] if value else []
    return tuple(sorted({validate_groupname(_text(name, "group")) for name in names}))


def _password(value: object) -> str:
    text = _text(value, "password")
    if not text:
        raise BadInput("A password cannot be empty; leave it out to keep or generate one.")
    return text


def _flag(value: object) -> bool:
    word = _plain(value) if isinstance(value, str) else ""
    if isinstance(value, bool) or word in _YES or word in _NO:
        return value if isinstance(value, bool) else word in _YES
    raise BadInput(f"“{str(value)[:20]}” is neither yes nor no.")


def _text(value: object, what: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):   # YAML reads 1234 as a number
        return str(value)
    if not isinstance(value, str):
        raise BadInput(f"The {what} has to be text.")
    return value


def _twice(people: Sequence[Person]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for person in people:
        earlier = first.setdefault(person.name, person.line)
        if earlier != person.line:
            yield Problem(person.line, f"{person.name} is there twice, first in line {earlier}.")
