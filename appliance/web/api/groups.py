"""Groups: who is in them, and what is noted of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from appliance.domain.names import validate_groupname
from appliance.domain.user import Group
from appliance.errors import Refused
from appliance.web.api.models import Shapes
from appliance.web.api.operation import Call, Operation, Target, answer, done
from appliance.web.api.paging import LIMIT, OFFSET, Page, list_schema, paged
from appliance.web.api.schema import ANY_OBJECT, TEXT, array, obj, ref


async def list_groups(call: Call) -> Response:
    """Without a word about pages, all of them: nbgrader takes the answer for everything there is."""
    page, reach = Page.of(call), call.reach("list:groups")
    if not (reach.everything or reach.groups):
        raise Refused("This token's list:groups is for something else, and lists no group.")
    limit = page.limit if page.wrapped or page.limit_said else None
    found, total = await call.hub.directory.groups(
        names=None if reach.everything else reach.groups, offset=page.offset, limit=limit)
    return paged(call, page, _shapes(call, found), total)


async def add_groups(call: Call) -> Response:
    await _check_roles(call, call.body["groups"], call.body.get("users", []))
    added = await call.hub.directory.add_groups(
        call.body["groups"], call.body.get("users", []), actor=call.requester.name)
    return answer(_shapes(call, added), 201)


async def get_group(call: Call) -> Response:
    return _answer(call, call.group)


async def add_group(call: Call) -> Response:
    name, members = call.visit.param("group"), (call.body or {}).get("users", [])
    await _check_roles(call, [name], members)
    added = await call.hub.directory.add_groups([name], members, actor=call.requester.name)
    return _answer(call, added[0], 201)


async def delete_group(call: Call) -> Response:
    await call.hub.directory.delete_group(call.group, actor=call.requester.name)
    return done()


async def add_members(call: Call) -> Response:
    await _check_roles(call, [call.group.name], call.body["users"])
    return _answer(call, await call.hub.directory.add_members(call.group, call.body["users"], actor=call.requester.name))


async def remove_members(call: Call) -> Response:
    return _answer(call, await call.hub.directory.remove_members(call.group, call.body["users"], actor=call.requester.name))


async def set_properties(call: Call) -> Response:
    return _answer(call, await call.hub.directory.set_properties(call.group, call.body, actor=call.requester.name))


async def _check_roles(call: Call, groups: Sequence[str], members: Sequence[str]) -> None:
    """Raises Refused: whoever is put into a group has its roles, and nobody hands out what they do not hold."""
    permissions = call.hub.permissions
    roles = {role for group in groups for role in permissions.roles_of_group(validate_groupname(group))} if members else ()
    if roles and (missing := await permissions.missing_of_roles(call.requester.rights, roles)):
        raise Refused(f"Who is in this group may do what you may not: {', '.join(missing[:5])}"
                      f"{' and more' if len(missing) > 5 else ''}.", action="Let an admin put people into it.")


def _shapes(call: Call, groups: Sequence[Group]) -> list[dict[str, Any]]:
    shapes = Shapes(call.visit, call.requester.rights)
    return [model for group in groups if (model := shapes.group(group))]


def _answer(call: Call, group: Group, status: int = 200) -> Response:
    return answer(Shapes(call.visit, call.requester.rights).group(group), status)


_NAMES = array({"type": "string", "maxLength": 1000}, maxItems=10_000)
_NEW = {"users": _NAMES, "roles": array(TEXT), "name": TEXT}
_MEMBERS = obj(_NEW, required=("users",))
_GROUP, _ONE = ref("Group"), "groups/{group}"

OPERATIONS = (
    Operation("GET", "groups", list_groups, "List groups", ("list:groups",), "groups", Target.SOME, query=(OFFSET, LIMIT),
              responses={200: list_schema(_GROUP)}),
    Operation("POST", "groups", add_groups, "Add groups, all of them or none", ("admin:groups",), "groups",
              body=obj({**_NEW, "groups": {**_NAMES, "minItems": 1}}, required=("groups",)), body_needed=True,
              responses={201: array(_GROUP), 409: ref("Error")}),
    Operation("GET", _ONE, get_group, "Read about a group", ("read:groups", "read:groups:name", "read:roles:groups"), "groups",
              Target.GROUP, responses={200: _GROUP}),
    Operation("POST", _ONE, add_group, "Add a group", ("admin:groups",), "groups", body=obj(_NEW),
              responses={201: _GROUP, 409: ref("Error")}),
    Operation("DELETE", _ONE, delete_group, "Delete a group; its members stay", ("delete:groups",), "groups", Target.GROUP,
              responses={204: None}),
    Operation("POST", f"{_ONE}/users", add_members, "Put users into a group", ("groups",), "groups", Target.GROUP,
              body=_MEMBERS, body_needed=True, responses={200: _GROUP}),
    Operation("DELETE", f"{_ONE}/users", remove_members, "Take users out of a group", ("groups",), "groups", Target.GROUP,
              body=_MEMBERS, body_needed=True, responses={200: _GROUP}),
    Operation("PUT", f"{_ONE}/properties", set_properties, "Replace what is noted of a group", ("groups",), "groups",
              Target.GROUP, body=ANY_OBJECT, body_needed=True, responses={200: _GROUP}),
)
