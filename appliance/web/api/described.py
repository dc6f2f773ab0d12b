"""What the page about the REST API says of a request's body: every key with its type, and one that can be sent as it stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from appliance.web.api.operation import Operation
from appliance.web.api.schema import Schema

_WORDS = {"object": "object", "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false",
          "null": "null"}
_TIME = "2026-01-31T08:00:00Z"
# what stands in an example for a key of this name
_LIKE: dict[str, Any] = {
    "usernames": ["ada", "ben"], "users": ["ada", "ben"], "groups": ["7b"], "user": "ada", "name": "lab2", "note": "my script",
    "expires_in": 86_400, "scopes": ["read:users!user"], "display_name": "Second lab", "user_options": {"profile": "lessons"},
    "remove": True, "admin": False, "last_activity": _TIME, "servers": {"": {"last_activity": _TIME}},
    "url": "http://127.0.0.1:9000",
}
# and what is shown where no key has to be there: those that one mostly sends
_SHOWN = {
    "POST users/{name}": ("admin", "groups"), "PATCH users/{name}": ("admin",), "POST groups/{group}": ("users",),
    "POST services/{service}": ("url", "admin"), "POST users/{name}/tokens": ("note", "expires_in", "scopes"),
    "POST shutdown": (), "POST users/{name}/activity": ("last_activity", "servers"),
}
_OF_A_START = "what is chosen, like {\"profile\": \"lessons\"}; the same may stand in “user_options”"
_WHOLE: dict[str, tuple[dict[str, Any], str]] = {
    "PUT groups/{group}/properties": (
        {"mem_limit": "2G", "profiles": ["lessons"], "room": "12"},
        "the properties themselves; they take the place of all that were there"),
    **{f"{method} users/{{name}}/{server}": ({"profile": "lessons"}, _OF_A_START)
       for method in ("POST", "PUT") for server in ("server", "servers/{server}")},
    **{f"{method} shares/{{name}}/{server}": ({"user": "ben"}, "")
       for method in ("POST", "PATCH") for server in ("", "{server}")},
    **{f"POST share-codes/{{name}}/{server}": ({"expires_in": 86_400}, "") for server in ("", "{server}")},
}


@dataclass(frozen=True)
class Key:
    """One key of a body. type: in words, "list of text"."""

    name: str
    type: str
    needed: bool
    description: str


@dataclass(frozen=True)
class Body:
    keys: tuple[Key, ...]
    other: str            # what else may be in it, "" for nothing that is worth a word
    description: str
    example: str          # JSON in one line
    needed: bool


def body_of(operation: Operation) -> Body | None:
    """None: the operation takes none."""
    schema = operation.body
    if schema is None:
        return None
    required = schema.get("required", ())
    keys = tuple(Key(name, type_of(said), name in required, said.get("description", ""))
                 for name, said in schema.get("properties", {}).items())
    _, other = _WHOLE.get(_name(operation), ({}, ""))
    return Body(keys, other, schema.get("description", ""), json.dumps(example_of(operation), ensure_ascii=False),
                operation.body_needed)


def example_of(operation: Operation) -> dict[str, Any]:
    """Return a body that the operation's schema takes."""
    name, schema = _name(operation), operation.body or {}
    if name in _WHOLE:
        return _WHOLE[name][0]
    known = schema.get("properties", {})
    shown = _SHOWN.get(name) if name in _SHOWN else schema.get("required") or tuple(known)[:1]
    return {key: _LIKE[key] for key in shown or ()}


def type_of(schema: Schema) -> str:
    said = schema.get("type")
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    types = [said] if isinstance(said, str) else list(said or ())
    words = [f"list of {type_of(schema.get('items', {}))}" if name == "array" else _WORDS[name] for name in types]
    return " or ".join(words) or "anything"


def _name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"
