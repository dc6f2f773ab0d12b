"""One operation of the REST API as a line of a table: from it come its route, its checks and its page in the documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from appliance.domain.names import validate_groupname, validate_servername, validate_username
from appliance.domain.person import Person
from appliance.domain.scopes import Reach
from appliance.domain.server import Server
from appliance.domain.user import Group
from appliance.errors import BadInput, BadName, MissingScope, MustChangePassword, NotFound, NotSignedIn, Refused
from appliance.web import cookies, security
from appliance.web.api import schema
from appliance.web.api.schema import Schema
from appliance.web.errors import error_json
from appliance.web.login import login_request, refuse_odd
from appliance.web.routing import Access, Entry
from appliance.web.visit import Visit

if TYPE_CHECKING:
    from appliance.domain.requester import Requester
    from appliance.hub.hub import Hub

NOT_YOURS_TO_SEE = "There is nothing of that name, or it is not yours to see."


class Target(Enum):
    """What a scope's filter is compared with before the handler is reached."""

    ALL = auto()         # nothing: the scope has to be held without a filter
    SOME = auto()        # the handler answers with what the scope reaches
    USER = auto()        # {name}
    SERVER = auto()      # {name} and {server}; without {server}, the default one
    GROUP = auto()       # {group}
    SERVICE = auto()     # {service}


@dataclass(frozen=True)
class Query:
    """One parameter of the address."""

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: schema.TEXT)


@dataclass(frozen=True)
class Operation:
    """path: below /hub/api, without a leading slash. scopes: one of them is enough; with none, a valid token is."""

    method: str
    path: str
    handler: Handler
    summary: str
    scopes: tuple[str, ...] = ()
    tag: str = ""
    target: Target = Target.ALL
    anyone: bool = False                    # also without a token
    query: tuple[Query, ...] = ()
    body: Schema | None = None              # None: a body is not looked at
    body_needed: bool = False
    responses: Mapping[int, Schema | None] = field(default_factory=dict)     # None: without a body
    media_type: str = "application/json"
    deprecated: bool = False
    makes: bool = False                     # a server that is not there yet: a bad name is told, and is no missing one
    by_password: bool = False               # {"auth": {"username": …, "password": …}} in the body stands for a token
    hides: bool = True                      # a filter that does not fit answers 404, as if nothing were there; else 403


@dataclass
class Call:
    """One request to an operation, after its checks."""

    visit: Visit
    operation: Operation
    known: Requester | None
    body: Any = None                  # what was sent, checked against the operation's schema; None if nothing was
    person: Person | None = None      # whom {name} names
    found_group: Group | None = None

    @property
    def hub(self) -> Hub:
        return self.visit.hub

    @property
    def requester(self) -> Requester:
        if self.known is None:
            raise NotSignedIn() if cookies.session_names(self.visit.cookies) else NotSignedIn(
                f"There is no token in this request. Send the header “Authorization: token …”; make one on "
                f"{self.visit.hub_url('token')}.")
        return self.known

    @property
    def owner(self) -> Person:
        """Whom {name} in the address names."""
        if self.person is None:
            raise NotFound(NOT_YOURS_TO_SEE)
        return self.person

    @property
    def group(self) -> Group:
        """Which group {group} in the address names."""
        if self.found_group is None:
            raise NotFound(NOT_YOURS_TO_SEE)
        return self.found_group

    @property
    def server_name(self) -> str:
        """"" is the default server. Raises NotFound for what cannot be one's name, BadName where one would be made."""
        try:
            return validate_servername(self.visit.param("server"))
        except BadName:
            if self.operation.makes:
                raise
            raise NotFound("There is no such server.") from None

    @property
    def server(self) -> Server | None:
        """Return the server of that name, None if there is none yet."""
        return next((server for server in self.owner.servers if server.name == self.server_name), None)

    def query(self, name: str) -> str:
        return self.visit.request.query_params.get(name, "")

    def reach(self, scope: str) -> Reach:
        return self.requester.rights.reach(scope)


Handler = Callable[[Call], Awaitable[Response]]


def entries(operations: Sequence[Operation]) -> tuple[Entry, ...]:
    """Return what the router needs: one entry for each address, whatever the method."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        found = by_path.setdefault(operation.path, {})
        if operation.method in found:
            raise ValueError(f"{operation.method} {operation.path} is there twice")
        found[operation.method] = operation
    return tuple(_entry(path, found) for path, found in by_path.items())


def answer(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), status, media_type="application/json")


def done(status: int = 204) -> Response:
    """Return an answer without a body."""
    return Response(status_code=status)


def allowed(methods: Mapping[str, Operation]) -> str:
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])


def _entry(path: str, methods: Mapping[str, Operation]) -> Entry:
    async def handler(visit: Visit) -> Response:
        method = visit.request.method
        if method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed(methods)})
        operation = methods.get("GET" if method == "HEAD" else method)
        if operation is None:
            refused = error_json(405, f"This address takes only {allowed(methods)}.")
            refused.headers["Allow"] = allowed(methods)
            return refused
        return await operate(operation, visit)

    handler.__name__ = f"api/{path}"
    # with checks of its own: they know what each operation needs
    access = Access.UNKNOWN if all(operation.anyone for operation in methods.values()) else Access.ANYONE
    return Entry(f"hub/api/{path.lstrip('/')}" if path else "hub/api", handler, access, (), checks_itself=True)


async def operate(operation: Operation, visit: Visit) -> Response:
    call = Call(visit, operation, visit.requester)
    if operation.by_password and call.known is None:
        await _sign_in_by_body(call)
    if not operation.anyone:
        await _check_browser(call)
        await _authorize(call)
    call.body = await _body(call)
    return await operation.handler(call)


# -- may they? ---------------------------------------------------------------------------------------------------------
async def _sign_in_by_body(call: Call) -> None:
    """Take who says their name and password for who asks. Raises LoginRefused, LoginThrottled, MustChangePassword."""
    said = (await _body(call) or {}).get("auth")
    if said is None:
        return
    refuse_odd(said)
    user = await call.hub.accounts.identify(login_request(call.visit), said)
    if user.must_change_password:
        raise MustChangePassword()
    call.known = await call.hub.permissions.by_password(user)


async def _check_browser(call: Call) -> None:
    """Raises NotSignedIn; and for a browser's session ForeignOrigin, BadXsrf, MustChangePassword."""
    user, visit = call.requester.user, call.visit
    if visit.session is None:
        return
    if visit.request.method not in security.SAFE_METHODS:
        security.check_origin(visit.request.headers, visit.own_origins)
        await visit.check_xsrf()
    if user is not None and user.must_change_password:
        raise MustChangePassword()


async def _authorize(call: Call) -> None:
    """Raises NotSignedIn, Refused, and NotFound where a filter hides something: whether it is there is then not told."""
    requester, operation = call.requester, call.operation
    reaches = [reach for scope in operation.scopes if (reach := requester.rights.reach(scope))]
    if operation.scopes and not reaches:
        raise MissingScope.of(*operation.scopes)
    if operation.target is Target.ALL:
        if operation.scopes and not any(reach.everything for reach in reaches):
            raise MissingScope(f"This needs the scope {' or '.join(operation.scopes)} for everybody, without a filter.")
    elif operation.target in (Target.USER, Target.SERVER):
        await _find_person(call, reaches)
    elif operation.target is Target.GROUP:
        await _find_group(call, reaches)
    elif operation.target is Target.SERVICE and not any(reach.service(call.visit.param("service")) for reach in reaches):
        raise NotFound(NOT_YOURS_TO_SEE)


async def _find_person(call: Call, reaches: Sequence[Reach]) -> None:
    try:
        name = validate_username(call.visit.param("name"))
    except BadName:
        raise NotFound(NOT_YOURS_TO_SEE) from None
    call.person = person = await call.hub.directory.person(name)
    groups = person.groups if person else ()
    if call.operation.target is Target.USER:
        covered = any(reach.user(name, groups) for reach in reaches)
    else:
        covered = any(reach.server(name, call.server_name, groups) for reach in reaches)
    if not covered:
        raise NotFound(NOT_YOURS_TO_SEE) if call.operation.hides else Refused(NOT_YOURS_TO_SEE)
    if person is None:
        raise NotFound("There is no such user.")


async def _find_group(call: Call, reaches: Sequence[Reach]) -> None:
    try:
        name = validate_groupname(call.visit.param("group"))
    except BadName:
        raise NotFound(NOT_YOURS_TO_SEE) from None
    if not any(reach.group(name) for reach in reaches):
        raise NotFound(NOT_YOURS_TO_SEE)
    call.found_group = await call.hub.directory.group(name)
    if call.found_group is None:
        raise NotFound("There is no such group.")


# -- what was sent -----------------------------------------------------------------------------------------------------
async def _body(call: Call) -> Any:
    operation = call.operation
    if operation.body is None:
        return None
    content = await call.visit.json()
    if content is None:
        if operation.body_needed:
            raise BadInput("This needs a JSON object in the body.")
        return None
    schema.check_sane(content)
    schema.check(content, operation.body)
    return content
