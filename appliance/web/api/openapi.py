"""The REST API described: as an OpenAPI 3.1 document for programs, and as a page to read. Both are made from the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from appliance.domain.scopes import SCOPES
from appliance.web.api.described import Body, body_of, example_of
from appliance.web.api.models import SCHEMAS
from appliance.web.api.operation import Call, Operation, Target, answer
from appliance.web.api.schema import ANY_OBJECT, Schema, nullable, ref
from appliance.web.views import Page, render
from appliance.web.visit import Visit

_PARAM = re.compile(r"\{(\w+)\}")
_WORDS = {200: "Done", 201: "Made", 202: "On its way", 204: "Done"}
_ERRORS = {400: "What was sent cannot be taken", 403: "No token, or one that may not do this",
           404: "Not there, or not yours to see", 405: "Not at this address", 409: "There already",
           413: "More than 1 MiB was sent", 429: "Too many wrong passwords",
           503: "A part of the box does not answer", 507: "The disk is full"}
_PARAMS = {
    "name": "A user's name", "server": "A named server's name", "group": "A group's name", "service": "A service's name",
    "owner": "The name of a server's owner", "token_id": "A token's id, like a12", "token": "An API token",
    "cookie": "A cookie's name", "value": "A cookie's value",
}
_INTRODUCTION = """JupyterHub's REST API as this box speaks it. Send a token as `Authorization: token …` or `Bearer …`. \
A token is made on the page /hub/token, and may what its scopes say."""
_OAUTH = """How a server or a service learns who its visitor is: codes for clients with a secret, PKCE with S256. What a \
client may ask for stands in its definition."""


# -- the document ------------------------------------------------------------------------------------------------------
def document(operations: Iterable[Operation], *, base: str, version: str) -> dict[str, Any]:
    """Return the OpenAPI document. base: the base URL of the box, "/"."""
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, None] = {}
    for operation in operations:
        if not operation.path:      # the same as "/", which is all that a document can say
            continue
        found = paths.setdefault(f"/{operation.path.lstrip('/')}", {})
        found.setdefault("parameters", [_path_param(name) for name in _PARAM.findall(operation.path)])
        found[operation.method.lower()] = _operation(operation)
        tags[operation.tag] = None
    return {
        "openapi": "3.1.0",
        "info": {"title": "Classroom box: REST API", "version": version, "description": _INTRODUCTION},
        "servers": [{"url": f"{base}hub/api"}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": _INTRODUCTION},
                "oauth": {"type": "oauth2", "description": _OAUTH, "flows": {"authorizationCode": {
                    "authorizationUrl": f"{base}hub/api/oauth2/authorize", "tokenUrl": f"{base}hub/api/oauth2/token",
                    "scopes": {}}}},
            },
        },
    }


def operation_id(operation: Operation) -> str:
    words = [part.strip("{}").upper() if part[0] == "{" else part for part in operation.path.split("/") if part]
    slash = ["slash"] if words and operation.path.endswith("/") else []     # some addresses have two spellings
    return "-".join([operation.method.lower(), *words, *slash]) if words else "get-version"


def _operation(operation: Operation) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation_id(operation), "summary": operation.summary, "tags": [operation.tag],
        "responses": _responses(operation),
        "security": [] if operation.anyone else [{"token": list(operation.scopes)}, *([{}] if operation.by_password else [])],
    }
    if operation.scopes:
        said["description"] = f"Needs the scope {' or '.join(f'`{scope}`' for scope in operation.scopes)}."
    if operation.deprecated:
        said["deprecated"] = True
    if operation.query:
        said["parameters"] = [{"name": query.name, "in": "query", "description": query.description, "schema": query.schema}
                              for query in operation.query]
    if operation.body is not None:
        # null is the same as nothing
        body = operation.body if operation.body_needed else nullable(operation.body)
        body = {**body, "examples": [example_of(operation)]}
        said["requestBody"] = {"required": operation.body_needed, "content": {"application/json": {"schema": body}}}
    return said


def _path_param(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": _PARAMS[name],
            "schema": {"type": "string", "minLength": 1, "maxLength": 256}}


def _responses(operation: Operation) -> dict[str, Any]:
    statuses: dict[int, Schema | None] = dict(operation.responses)
    for status in statuses_of_errors(operation):
        statuses[status] = ref("Error")
    return {str(status): _response(operation, status, schema) for status, schema in sorted(statuses.items())}


def statuses_of_errors(operation: Operation) -> set[int]:
    """Return the statuses of refusals that an operation has besides those it names itself."""
    found = {400, 503} if operation.body is not None or operation.query else {503}
    if not operation.anyone:
        found.add(403)
    if "{" in operation.path or operation.path == "authorizations/token":
        found |= {400, 404}
    if not operation.responses:
        found.add(400)
    if operation.body is not None:
        found.add(413)
    if operation.by_password:
        found.add(429)
    return found


def _response(operation: Operation, status: int, schema: Schema | None) -> dict[str, Any]:
    said: dict[str, Any] = {"description": _ERRORS.get(status) or _WORDS.get(status, "Done")}
    if schema is not None:
        media_type = operation.media_type if status < 400 else "application/json"
        said["content"] = {media_type: {"schema": schema}}
    return said


# -- its two addresses -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Line:
    """One operation as the page shows it."""

    method: str
    path: str
    summary: str
    scopes: tuple[str, ...]
    anyone: bool
    body: Body | None
    curl: str                      # a command that sends it
    query: tuple[tuple[str, str], ...]
    statuses: str
    deprecated: bool


@dataclass(frozen=True)
class ApiPage(Page):
    sections: Mapping[str, tuple[Line, ...]]      # by tag
    scopes: tuple[tuple[str, str], ...]           # name and what it allows
    document_url: str
    tokens_url: str


class Documentation:
    """Serves what is said of a table of operations."""

    def __init__(self, operations: tuple[Operation, ...]) -> None:
        self._operations = (*operations, self.operation)
        self._made: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def operation(self) -> Operation:
        return Operation("GET", "openapi.json", self.serve_document, "This API as an OpenAPI 3.1 document", tag="hub",
                         target=Target.ALL, anyone=True, responses={200: ANY_OBJECT})

    async def serve_document(self, call: Call) -> Response:
        key = (call.visit.urls.base, call.hub.version)
        if key not in self._made:
            self._made[key] = document(self._operations, base=key[0], version=key[1])
        return answer(self._made[key])

    async def show(self, visit: Visit) -> Response:
        sections: dict[str, list[Line]] = {}
        for operation in self._operations:
            if operation.path != "/":
                sections.setdefault(operation.tag, []).append(_line(operation, f"{visit.origin}{visit.urls.api}"))
        return render(visit, "api.html", ApiPage(
            {tag: tuple(lines) for tag, lines in sections.items()},
            tuple((name, scope.description) for name, scope in SCOPES.items()),
            visit.hub_url("api/openapi.json"), visit.hub_url("token")))


def _line(operation: Operation, address: str) -> Line:
    """address: of the API as the visitor's browser reaches it."""
    statuses = [str(status) for status in operation.responses if status < 400]
    body = body_of(operation)
    path = _PARAM.sub(lambda found: found[1].upper(), operation.path.lstrip("/"))
    curl = " ".join(filter(None, (
        "curl", f"-X {operation.method}" if operation.method != "GET" else "",
        "" if operation.anyone else '-H "Authorization: token $TOKEN"', f'"{address.removesuffix("/")}/{path}"',
        f"-d '{body.example}'" if body else "")))
    return Line(operation.method, f"/hub/api/{operation.path}".rstrip("/"), operation.summary, operation.scopes,
                operation.anyone, body, curl, tuple((query.name, query.description) for query in operation.query),
                ", ".join(statuses), operation.deprecated)
