"""Users: listing, adding, renaming, deleting, and what they did last."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from appliance.domain.names import normalize_username, validate_new_username
from appliance.domain.person import Wanted
from appliance.errors import BadInput, Exists, NotFound, Refused
from appliance.web.api import services
from appliance.web.api.models import Shapes
from appliance.web.api.operation import Call, Operation, Query, Target, answer, done
from appliance.web.api.paging import LIMIT, OFFSET, Page, list_schema, paged
from appliance.web.api.schema import ANY_OBJECT, FLAG, NAME, TIME, array, nullable, obj, ref

STATES = ("active", "inactive", "ready")
SORTS = ("id", "name", "last_activity")
_NOT_AN_ADMIN = "Only somebody with all the rights of an admin can make somebody an admin, or change or delete one."


async def whoami(call: Call) -> Response:
    requester, visit = call.requester, call.visit
    model: dict[str, Any] = {}
    if requester.user is not None:
        person = await call.hub.directory.person(requester.user.name)
        if person is None:
            raise NotFound("There is no such user.")
        model = Shapes(visit, requester.rights).user(person)
    else:
        service = call.hub.services.get(requester.name)
        if service is None:
            raise NotFound("There is no such service any more.")
        model = services.shape(call.hub, requester.rights, service)
    return answer(model | {
        "scopes": sorted(requester.rights.expanded), "session_id": requester.session_id or None,
        "token_id": f"a{requester.token_id}" if requester.token_id is not None else None})


async def list_users(call: Call) -> Response:
    page, reach = Page.of(call), call.reach("list:users")
    if not (reach.everything or reach.users or reach.groups):
        raise Refused("This token's list:users is for servers or services, and lists nobody.")
    state, sort = call.query("state"), call.visit.request.query_params.get("sort", "id")
    if state and state not in STATES:
        raise BadInput(f"“state” has to be one of {', '.join(STATES)}.")
    if sort.removeprefix("-") not in SORTS:
        raise BadInput(f"“sort” has to be one of {', '.join(SORTS)}, with a “-” before it for the other way round.")
    stopped = _flag(call, "include_stopped_servers")
    people, total = await call.hub.directory.users(Wanted(
        state=state, name_filter=normalize_username(call.query("name_filter")[:256]).replace("\x00", ""),
        sort=sort.removeprefix("-"), descending=sort.startswith("-"), offset=page.offset, limit=page.limit,
        names=None if reach.everything else reach.users, of_groups=None if reach.everything else reach.groups,
        stopped=stopped))
    shapes = Shapes(call.visit, call.requester.rights)
    models = [model for person in people if (model := shapes.user(person, stopped=stopped))]
    return paged(call, page, models, total)


async def add_users(call: Call) -> Response:
    body = call.body
    admin = bool(body.get("admin"))
    if admin:
        _check_admin(call)
    added = await call.hub.directory.add_users(body["usernames"], admin=admin, actor=call.requester.name)
    shapes = Shapes(call.visit, call.requester.rights)
    return answer([shapes.user(person) for person in added], 201)


async def get_user(call: Call) -> Response:
    return answer(Shapes(call.visit, call.requester.rights).user(call.owner, stopped=_flag(call, "include_stopped_servers")))


async def add_user(call: Call) -> Response:
    admin = bool((call.body or {}).get("admin"))
    if admin:
        _check_admin(call)
    added = await call.hub.directory.add_users([call.visit.param("name")], admin=admin, actor=call.requester.name)
    return answer(Shapes(call.visit, call.requester.rights).user(added[0]), 201)


async def change_user(call: Call) -> Response:
    user, body = call.owner.user, call.body
    if user.admin or body.get("admin"):
        _check_admin(call)
    if body.get("name") is not None:
        await _check_new_name(call, user.name, validate_new_username(body["name"]))
    try:
        await call.hub.directory.change_user(
            user, name=body.get("name"), admin=body.get("admin"), actor=call.requester.name)
    except Exists as error:
        raise BadInput(error.sentence) from error    # as JupyterHub, which answers 409 only where something is made
    person = await call.hub.directory.person_by_id(user.id)
    if person is None:
        raise NotFound("There is no such user any more.")
    return answer(Shapes(call.visit, call.requester.rights).user(person) | {"auth_state": None})


async def delete_user(call: Call) -> Response:
    user = call.owner.user
    if call.requester.user is not None and call.requester.user.id == user.id:
        raise BadInput("Nobody can delete themselves; ask another admin.")
    if user.admin:
        _check_admin(call)
    await call.hub.directory.delete_user(user, actor=call.requester.name)
    return done()


async def report_activity(call: Call) -> Response:
    await call.hub.activity.report(call.requester, call.owner.user, call.body)
    return done(200)


def _check_admin(call: Call) -> None:
    if call.hub.permissions.missing_of_admin(call.requester.rights):
        raise Refused(_NOT_AN_ADMIN, action="Use the token of an admin.")


async def _check_new_name(call: Call, old: str, new: str) -> None:
    """Raises Refused: the configuration gives roles by name, and nobody hands out what they do not hold."""
    roles = call.hub.permissions.roles
    more = set(roles.of_user(new, (), admin=False)) - set(roles.of_user(old, (), admin=False))
    if more and await call.hub.permissions.missing_of_roles(call.requester.rights, more):
        raise Refused("To this name the configuration gives roles that may do what you may not.",
                      action="Use the token of an admin, or choose another name.")
    if new != old and call.hub.accounts.makes_admin(new):
        _check_admin(call)


def _flag(call: Call, name: str) -> bool:
    return name in call.visit.request.query_params and call.query(name).lower() not in ("0", "false")


_STOPPED = Query("include_stopped_servers", "Also the servers that do not run, unless it is 0 or false.")
_READ = ("read:users", "read:users:name", "read:servers", "read:users:groups", "read:users:activity", "read:roles:users")
_USER = ref("User")
_NEW_USER = {"admin": FLAG, "name": NAME, "groups": array(NAME), "roles": array(NAME), "auth_state": ANY_OBJECT}

OPERATIONS = (
    Operation("GET", "user", whoami, "Whose token this is, and what it may", tag="users", target=Target.SOME,
              responses={200: ref("Identity")}),
    Operation("GET", "users", list_users, "List users", ("list:users",), "users", Target.SOME, query=(
        Query("state", "Only users with a server that is up (active), that is ready, or with none that is up (inactive).",
              {"type": "string", "enum": [*STATES, ""]}),
        Query("name_filter", "Only users whose name holds this."),
        Query("sort", "By id, name or last_activity, with a “-” before it for the other way round.",
              {"type": "string", "enum": [sign + sort for sign in ("", "-") for sort in SORTS]}),
        _STOPPED, OFFSET, LIMIT), responses={200: list_schema(_USER)}),
    Operation("POST", "users", add_users, "Add users, all of them or none", ("admin:users",), "users",
              body=obj({**_NEW_USER, "usernames": array({"type": "string", "maxLength": 1000}, minItems=1, maxItems=10_000)},
                       required=("usernames",)),
              body_needed=True, responses={201: {"type": "array", "items": _USER}, 409: ref("Error")}),
    Operation("GET", "users/{name}", get_user, "Read about a user", _READ, "users", Target.USER, query=(_STOPPED,),
              responses={200: _USER}),
    Operation("POST", "users/{name}", add_user, "Add a user", ("admin:users",), "users", body=obj(_NEW_USER),
              responses={201: _USER, 409: ref("Error")}),
    Operation("PATCH", "users/{name}", change_user,
              "Rename a user, or make one an admin or none; servers, files and shares stay theirs", ("admin:users",), "users",
              Target.USER, body=obj({"name": {"type": "string", "maxLength": 1000}, "admin": FLAG}), body_needed=True,
              responses={200: _USER}),
    Operation("DELETE", "users/{name}", delete_user, "Delete a user; the files stay on the box", ("delete:users",), "users",
              Target.USER, responses={204: None}),
    Operation("POST", "users/{name}/activity", report_activity, "Tell when a user, or a server of theirs, was last active",
              ("users:activity",), "users", Target.USER, body_needed=True, body=obj({
                  "last_activity": nullable(TIME),
                  "servers": nullable({"type": "object", "additionalProperties": obj(
                      {"last_activity": TIME}, required=("last_activity",), more=True), "maxProperties": 1000}),
              }, more=True), responses={200: None}),
)
