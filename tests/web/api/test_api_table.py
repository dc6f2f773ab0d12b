"""The table of operations: what JupyterHub's clients call is there, and none of it is open to who may not."""

from __future__ import annotations

import html
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from appliance.domain.scopes import SCOPES
from appliance.store.rows import ApiTokenRow
from appliance.web.api import described, openapi, schema
from appliance.web.api.models import SCHEMAS
from appliance.web.api.operation import Operation, Target
from appliance.web.api.table import OPERATIONS

from .conftest import Client, House, expect

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

U, S, SERVER = "users/{name}", "users/{name}/servers/{server}", "users/{name}/server"
NONE, ANY = "none", "any"
# method, path, the scope of which one is enough; by JupyterHub 6.1.1
CONTRACT = [
    ("GET", "", NONE), ("GET", "/", NONE), ("POST", "authorizations/token", NONE),
    ("GET", "user", ANY), ("GET", "authorizations/token/{token}", ANY), ("GET", "authorizations/cookie/{cookie}/{value}", ANY),
    ("GET", "info", "read:hub"), ("POST", "shutdown", "shutdown"),
    ("GET", "proxy", "proxy"), ("POST", "proxy", "proxy"), ("PATCH", "proxy", "proxy"),
    ("GET", "users", "list:users"), ("POST", "users", "admin:users"), ("POST", U, "admin:users"), ("PATCH", U, "admin:users"),
    *(("GET", U, scope) for scope in ("read:users", "read:users:name", "read:servers", "read:users:groups",
                                      "read:users:activity", "read:roles:users")),
    ("DELETE", U, "delete:users"), ("POST", f"{U}/activity", "users:activity"),
    *((method, path, scope) for path in (SERVER, S) for method, scope in (
        ("GET", "read:servers"), ("POST", "start:servers"), ("PUT", "start:servers"), ("PATCH", "start:servers"),
        ("DELETE", "delete:servers"))),
    ("GET", f"{SERVER}/progress", "read:servers"), ("GET", f"{S}/progress", "read:servers"),
    ("GET", f"{U}/tokens", "read:tokens"), ("POST", f"{U}/tokens", "tokens"),
    ("GET", f"{U}/tokens/{{token_id}}", "read:tokens"), ("DELETE", f"{U}/tokens/{{token_id}}", "tokens"),
    ("GET", "groups", "list:groups"), ("POST", "groups", "admin:groups"), ("GET", "groups/{group}", "read:groups"),
    ("POST", "groups/{group}", "admin:groups"), ("DELETE", "groups/{group}", "delete:groups"),
    ("POST", "groups/{group}/users", "groups"), ("DELETE", "groups/{group}/users", "groups"),
    ("PUT", "groups/{group}/properties", "groups"),
]
BY_NAME = {(operation.method, operation.path): operation for operation in OPERATIONS}
GUARDED = [operation for operation in OPERATIONS if not operation.anyone]
SCOPED = [operation for operation in GUARDED if operation.scopes]
TAGS = sorted({operation.tag for operation in OPERATIONS})
WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]


def name_of(operation: Any) -> str:
    return f"{operation.method} {operation.path}" if isinstance(operation, Operation) else str(operation)


def of_tag(operations: list[Operation], tag: str) -> list[Operation]:
    return [operation for operation in operations if operation.tag == tag]


def path_of(operation: Operation, **params: str) -> str:
    """Return an address of this operation. The user is alice."""
    said = {"name": "alice", "server": "lab", "group": "7b", "service": "culler", "owner": "alice", "token_id": "a1",
            "token": "x" * 32, "cookie": "jupyterhub-hub-login", "value": "x", "user": "bob", **params}
    return "/hub/api/" + operation.path.lstrip("/").format_map(said) if operation.path else "/hub/api"


@pytest.mark.parametrize(("method", "path", "scope"), CONTRACT)
def test_every_operation_of_the_contract_is_there_with_its_scope(method: str, path: str, scope: str) -> None:
    operation = BY_NAME[method, path]
    if scope == NONE:
        assert operation.anyone
    elif scope == ANY:
        assert not operation.anyone
        assert not operation.scopes
    else:
        assert scope in operation.scopes


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_operation_is_written_properly(operation: Operation) -> None:
    assert operation.summary
    assert operation.tag
    assert set(operation.scopes) <= set(SCOPES)
    assert operation.anyone or operation.scopes or operation.target is Target.SOME
    if "{name}" in operation.path and operation.scopes and operation.path != U:
        assert operation.target in (Target.USER, Target.SERVER)
    if "{server}" in operation.path and operation.path.startswith("users/{name}/servers"):
        assert operation.target is Target.SERVER
    if operation.path.startswith("groups/{group}/"):
        assert operation.target is Target.GROUP


def keywords(said: Any) -> set[str]:
    if isinstance(said, list):
        return set().union(*map(keywords, said)) if said else set()
    found: set[str] = set()
    if isinstance(said, dict):
        for key, inner in said.items():
            found.add(key)
            found |= set().union(*map(keywords, inner.values()), set()) if key == "properties" else keywords(inner)
    return found


@pytest.mark.parametrize("operation", WITH_BODY, ids=name_of)
def test_what_a_body_has_to_be_is_all_checked(operation: Operation) -> None:
    """A keyword that the document has and the check does not know would be a promise that nobody keeps."""
    assert keywords(operation.body) <= schema.CHECKED | schema.DESCRIBING - {"pattern"}


# -- who may not -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tag", TAGS)
async def test_operation_refuses_who_brings_no_good_token(tag: str, house: House) -> None:
    """403 every time: with 401 the clients would answer their own users 500."""
    before = await house.client("alice")
    expired, revoked = await house.client("alice"), await house.client("alice")
    ids = {client: (await house.requester(client)).token_id for client in (expired, revoked)}
    ago = datetime.now(UTC) - timedelta(seconds=1)
    await house.db.transact(lambda t: t.execute(
        update(ApiTokenRow).where(ApiTokenRow.id == ids[expired]).values(expires_at=ago)) and None)
    await before.delete(f"users/alice/tokens/a{ids[revoked]}")
    for operation in of_tag(GUARDED, tag):
        for client in (Client(house.app), Client(house.app, "x" * 64), Client(house.app, "x"), Client(house.app, "x" * 3000),
                       expired, revoked):
            expect(await client(operation.method, path_of(operation)), 403)


@pytest.mark.parametrize("tag", TAGS)
async def test_operation_refuses_a_token_that_is_too_narrow(tag: str, house: House) -> None:
    narrow = await house.client("alice", "access:servers!user=alice")
    for operation in of_tag(SCOPED, tag):
        await refuses_narrow(operation, narrow)


async def refuses_narrow(operation: Operation, narrow: Client) -> None:
    if {"read:users:name", "read:users:groups"} & set(operation.scopes):    # every token may say whose it is, and no more
        model = await narrow.get("users/alice")
        assert set(model) == {"kind", "name", "admin", "groups", "user_info"}
        return
    message = expect(await narrow(operation.method, path_of(operation)), 403)["message"]
    assert any(scope in message for scope in operation.scopes)


async def test_who_may_do_it_for_oneself_learns_nothing_of_others(house: House) -> None:
    """One who is there and one who is not are answered alike."""
    await house.user("bob")
    alice = await house.client("alice")
    for operation in SCOPED:
        if operation.target in (Target.USER, Target.SERVER):
            there, nowhere = [await alice(operation.method, path_of(operation, name=name)) for name in ("bob", "nobody")]
            assert there.status_code == nowhere.status_code, operation
            assert there.status_code in (403, 404)
            assert there.json() == nowhere.json()


async def test_a_filter_is_not_enough_where_everybody_is_concerned(house: House) -> None:
    """GHSA-69wv: a filtered admin:users or admin:groups made users and groups."""
    everybody_s = [operation for operation in SCOPED if operation.target is Target.ALL]
    scopes = {scope for operation in everybody_s for scope in operation.scopes}
    filtered = await house.client(
        "teacher", *(f"{scope}!{said}" for scope in sorted(scopes) for said in ("user=alice", "group=7b")), admin=True)
    for operation in everybody_s:
        assert "without a filter" in expect(await filtered(operation.method, path_of(operation)), 403)["message"]
    assert {operation.path for operation in everybody_s} >= {"users", "groups", "users/{name}", "groups/{group}"}


# -- bodies that are none ----------------------------------------------------------------------------------------------
BROKEN = [b"[", b"{", b'{"a": 1', b"\xff\xfe", b"NaN", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1, "a": 2}', b"[" * 50_000,
          b'{"a":' * 50_000, b'"x"', b"[]", b"1", b"null", b"true", b'{"users": "x", "usernames": 1, "groups": {}, "note": [], '
          b'"admin": "yes", "name": 7, "last_activity": {}, "servers": 3, "display_name": 1, "user_options": [], '
          b'"remove": "x", "expires_in": "soon", "scopes": "all", "proxy": 1}', b'{"a": ' + b"9" * 400 + b"}",
          b'{"name": "\\ud800", "note": "\\ud800", "users": ["\\u0000"], "user_options": {"a": "\\ud800"}}']


@pytest.mark.parametrize("tag", sorted({operation.tag for operation in WITH_BODY}))
async def test_broken_bodies_are_refused_with_a_sentence(tag: str, house: House, admin: Client) -> None:
    await house.user("alice")
    await admin.post("groups/7b")
    for operation, content in itertools.product(of_tag(WITH_BODY, tag), BROKEN):
        response = await admin(operation.method, path_of(operation, group="7b"), content=content)
        same_as_none = content == b"null" and not operation.body_needed
        if same_as_none or (operation.body == schema.ANY_OBJECT and content.startswith(b'{"users"')):
            assert response.status_code < 500, response.text
            continue
        assert 400 <= response.status_code < 500, (content[:80], response.text)
        assert response.json()["message"].endswith("."), response.text


async def test_twenty_megabytes_are_refused(house: House, admin: Client) -> None:
    await house.user("alice")
    await admin.post("groups/7b")
    content = b'{"note": "' + b"x" * 20_000_000 + b'"}'
    for operation in WITH_BODY:
        response = await admin(operation.method, path_of(operation), content=content)
        expect(response, 404 if response.status_code == 404 else 413)


# -- addresses and methods ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/hub/api", "/hub/api/"])
async def test_anybody_may_ask_for_the_version(path: str, house: House, stranger: Client) -> None:
    response = await stranger("GET", path)
    assert response.json() == {"version": "6.1.1"}
    assert response.headers["x-jupyterhub-version"] == "6.1.1"
    assert (await stranger("HEAD", path)).status_code == 200
    assert (await Client(house.app, "no good")("GET", path)).status_code == 200


async def test_methods_an_address_does_not_know(admin: Client, stranger: Client) -> None:
    response = await admin("PUT", "users")
    expect(response, 405)
    assert response.headers["allow"] == "GET, POST, HEAD, OPTIONS"
    response = await stranger("OPTIONS", "users")
    assert (response.status_code, response.headers["allow"]) == (204, "GET, POST, HEAD, OPTIONS")
    assert "access-control-allow-origin" not in response.headers
    assert (await admin("HEAD", "users")).status_code == 200
    expect(await admin("TRACE", "users"), 405)


@pytest.mark.parametrize("path", ["nothing", "users/alice/", "users/a%00b", "users/a%2Fb", "users/..%2f..", "users/%ff",
                                  "users/alice/servers/two", "users/alice/server/x", "groups/a%00b", "internal/authorize/x",
                                  "users/%F0%9F%92%A9", "users/al%0aice", "users//", "%2e%2e/login"])
async def test_unknown_addresses_are_json(path: str, house: House, admin: Client) -> None:
    await house.user("alice")
    expect(await admin("GET", path, headers={"Accept": "text/html"}), 404)


# -- what is said of it ------------------------------------------------------------------------------------------------
async def test_document(stranger: Client) -> None:
    found = await stranger.get("openapi.json")
    assert found["openapi"] == "3.1.0"
    assert found["servers"] == [{"url": "/hub/api"}]
    said = {(method.upper(), path.lstrip("/") or "/") for path, item in found["paths"].items() for method in item
            if method != "parameters"}
    assert said == {(operation.method, operation.path) for operation in OPERATIONS if operation.path}
    ids = [operation["operationId"] for item in found["paths"].values() for method, operation in item.items()
           if method != "parameters"]
    assert len(set(ids)) == len(ids)
    assert set(found["components"]["schemas"]) == set(SCHEMAS)


def test_every_reference_leads_somewhere() -> None:
    def refs(said: Any) -> set[str]:
        if isinstance(said, list):
            return set().union(*map(refs, said)) if said else set()
        if not isinstance(said, dict):
            return set()
        own = {said["$ref"]} if isinstance(said.get("$ref"), str) else set()
        return own.union(*map(refs, said.values())) if said else own

    found = openapi.document(OPERATIONS, base="/", version="1")
    assert refs(found) <= {f"#/components/schemas/{name}" for name in SCHEMAS}


def test_every_parameter_of_an_address_is_explained() -> None:
    for operation in OPERATIONS:
        for name in openapi._PARAM.findall(operation.path):
            assert name in openapi._PARAMS, operation


def path_of_page(operation: Operation) -> str:
    return f"/hub/api/{operation.path}".rstrip("/")


async def test_page_to_read(house: House, stranger: Client) -> None:
    response = await stranger("GET", "docs", headers={"Accept": "text/html"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    for operation in OPERATIONS:
        assert f"{operation.method} {path_of_page(operation)}<" in response.text
    assert "<script" not in response.text
    text = html.unescape(response.text)
    assert "<code>usernames</code>: list of text, <b>required</b>" in text
    assert "<code>expires_in</code>: whole number or null" in text
    properties = text.partition("PUT /hub/api/groups/{group}/properties<")[2].partition("</details>")[0]
    assert "It is the properties themselves; they take the place of all that were there." in properties
    assert """-d '{"mem_limit": "2G", "profiles": ["lessons"], "room": "12"}'""" in properties
    start = text.partition("POST /hub/api/users/{name}/server<")[2].partition("</details>")[0]
    assert 'curl -X POST -H "Authorization: token $TOKEN" "http://box.test/hub/api/users/NAME/server"' in start
    assert "like {\"profile\": \"lessons\"}" in start


@pytest.mark.parametrize("operation", WITH_BODY, ids=name_of)
def test_every_example_of_a_body_is_one_that_is_taken(operation: Operation) -> None:
    assert operation.body is not None
    schema.check(described.example_of(operation), operation.body)
    assert described.example_of(operation) or not operation.body_needed
