"""What a request's JSON has to look like: the few keywords of JSON Schema that the table of operations uses.

The same schemas stand in the OpenAPI document, so what is written there is what is checked. (Measured: a library for all of
JSON Schema takes longer to import than the rest of the Hub's web side.)
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from appliance.errors import BadInput

Schema = Mapping[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "null": (type(None),),
}
_WORDS = {"object": "an object", "array": "a list", "string": "a text", "integer": "a whole number", "number": "a number",
          "boolean": "true or false", "null": "null"}
CHECKED = frozenset({"type", "properties", "required", "additionalProperties", "items", "enum", "minLength", "maxLength",
                     "minItems", "maxItems", "minProperties", "maxProperties", "minimum", "maximum"})
DESCRIBING = frozenset({"description", "format", "examples", "default", "title", "pattern"})
_DEEPEST = 32
_LARGEST = 2**53


# -- schemas in short --------------------------------------------------------------------------------------------------
def obj(properties: Mapping[str, Schema], *, required: tuple[str, ...] = (), more: bool | Schema = False,
        **keywords: Any) -> Schema:
    """Return the schema of an object. more: whether (or which) other properties may be there."""
    return {"type": "object", "properties": dict(properties), "additionalProperties": more,
            **({"required": list(required)} if required else {}), **keywords}


def array(items: Schema, **keywords: Any) -> Schema:
    return {"type": "array", "items": items, **keywords}


def nullable(schema: Schema) -> Schema:
    """Return the same schema, null being allowed as well."""
    said = schema["type"]
    return {**schema, "type": [*([said] if isinstance(said, str) else said), "null"]}


def ref(name: str) -> Schema:
    """Return a reference to a shape of `models.SCHEMAS`; for answers only."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer"}
TIME: Schema = {"type": "string", "format": "date-time", "maxLength": 64}
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}
ANYTHING: Schema = {}


# -- checking ----------------------------------------------------------------------------------------------------------
def check(value: Any, schema: Schema, where: str = "") -> None:
    """Raises BadInput with a sentence that names the first thing that does not fit. where: "users[3]"."""
    _check_type(value, schema, where)
    if "enum" in schema and value not in schema["enum"]:
        raise BadInput(f"{_what(where)} has to be one of {_listed(schema['enum'])}.")
    if isinstance(value, dict):
        _check_object(value, schema, where)
    elif isinstance(value, list):
        _check_size(len(value), schema, "Items", where, "entries")
        for index, item in enumerate(value):
            check(item, schema.get("items", ANYTHING), f"{where}[{index}]")
    elif isinstance(value, str):
        _check_size(len(value), schema, "Length", where, "characters")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(value, schema, where)


def check_sane(value: Any, depth: int = 0) -> None:
    """Refuse what JSON can say but no database or program keeps: raises BadInput."""
    if depth > _DEEPEST:
        raise BadInput("The JSON in the body is nested too deeply.")
    if isinstance(value, str):
        if "\x00" in value or (not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)):
            raise BadInput("A text in the body holds characters that cannot be kept.")
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_sane(key, depth)
            check_sane(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            check_sane(inner, depth + 1)
    elif isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise BadInput("A number in the body is too large.")


def _check_type(value: Any, schema: Schema, where: str) -> None:
    said = schema.get("type")
    if said is None:
        return
    types = [said] if isinstance(said, str) else list(said)
    for name in types:
        if isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)):
            return
    raise BadInput(f"{_what(where)} has to be {' or '.join(_WORDS[name] for name in types)}.")


def _check_object(value: dict[str, Any], schema: Schema, where: str) -> None:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise BadInput(f"{_what(where)} needs {_listed(missing)}.")
    unknown = sorted(value.keys() - properties.keys())
    if unknown and more is False:
        near = list(dict.fromkeys(near for name in unknown[:5] for near in get_close_matches(name, properties, 1)))
        known = f"; the nearest is {_listed(near)}" if near else (
            f"; there are {_listed(sorted(properties))}" if properties else "")
        raise BadInput(f"{_what(where)} has nothing called {_listed([name[:60] for name in unknown[:5]])}{known}.")
    _check_size(len(value), schema, "Properties", where, "entries")
    for name, inner in value.items():
        below = f"{where}.{name[:60]}" if where else name[:60]
        if name in properties:
            check(inner, properties[name], below)
        elif isinstance(more, Mapping):
            check(inner, more, below)


def _check_number(value: float, schema: Schema, where: str) -> None:
    if value < schema.get("minimum", value):
        raise BadInput(f"{_what(where)} is at least {schema['minimum']}.")
    if value > schema.get("maximum", value):
        raise BadInput(f"{_what(where)} is at most {schema['maximum']}.")


def _check_size(size: int, schema: Schema, kind: str, where: str, words: str) -> None:
    least, most = schema.get(f"min{kind}", 0), schema.get(f"max{kind}")
    if size < least:
        raise BadInput(f"{_what(where)} is empty." if least == 1 else f"{_what(where)} needs at least {least} {words}.")
    if most is not None and size > most:
        raise BadInput(f"{_what(where)} has at most {most} {words}.")


def _what(where: str) -> str:
    shown = "".join(char for char in where if char.isprintable())
    return f"“{shown[:120]}”" if shown else "The body"


def _listed(names: Any) -> str:
    return ", ".join(f"“{name}”" if str(name).isprintable() else "“?”" for name in names)
