"""What once went wrong in JupyterHub's API, each under its advisory's name. Others stand beside what they are about."""

from __future__ import annotations

import logging
from urllib.parse import quote

import pytest

from appliance.domain.server import Phase

from .conftest import Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_cve_2024_41942_holders_of_admin_users_make_nobody_an_admin(house: House) -> None:
    """Neither themselves nor others, in none of the ways there are; and they touch no admin."""
    await house.user("root", admin=True)
    owner = await house.user("helper")
    assert not owner.admin
    helper = await house.client("teacher", "admin:users", "delete:users", "tokens", admin=True)
    await house.user("helper2")
    for method, path, body in (
            ("PATCH", "users/helper", {"admin": True}), ("POST", "users", {"usernames": ["new"], "admin": True}),
            ("POST", "users/new", {"admin": True}), ("PATCH", "users/root", {"admin": False}),
            ("PATCH", "users/root", {"name": "toor"}), ("DELETE", "users/root", None)):
        response = await helper(method, path, json=body)
        assert response.status_code == 403, (method, path, response.text)
        assert "admin" in response.json()["message"]
    root = await house.client("root")
    assert [user["name"] for user in await root.get("users") if user["admin"]] == ["root", "teacher"]
    await root.get("users/new", 404)
    # what they are there for, they do
    await helper.post("users", {"usernames": ["new"]})
    await helper.patch("users/helper", {"name": "helfer"})
    await helper.delete("users/helper2")


ROLE = [{"name": "helpers", "scopes": ["admin:users", "tokens", "list:users"], "users": ["helper"]}]


@pytest.mark.parametrize("house", [{"load_roles": ROLE}], indirect=True)
async def test_cve_2024_41942_by_a_role_and_by_another_s_token(house: House) -> None:
    await house.user("root", admin=True)
    helper = await house.client("helper")
    await helper.patch("users/helper", {"admin": True}, 403)
    await helper.post("users/root/tokens", None, 403)
    await helper.post("users/root/tokens", {"scopes": ["admin:servers"]}, 403)
    await helper.post("users/helper/tokens", {"roles": ["admin"]}, 403)
    assert (await helper.get("user"))["admin"] is False


async def test_ghsa_r764_names_are_normalised_before_anything_is_decided(house: House, admin: Client) -> None:
    await house.user("root", admin=True)
    helper = await house.client("teacher", "admin:users", "delete:users", admin=True)
    for spelling in ("ROOT", "Root", "\uff52\uff4f\uff4f\uff54", " root", "root%20"):
        await helper.patch(f"users/{quote(spelling, safe='%')}", {"admin": False}, 403)
        await helper.delete(f"users/{quote(spelling, safe='%')}", status=403)
        await admin.post("users", {"usernames": [spelling.replace("%20", " ")]}, 409)
    for spelling in ("TEACHER", "Teacher"):
        await admin.delete(f"users/{spelling}", status=400)     # nobody deletes themselves, however it is written


async def test_ghsa_69wv_filtered_admins_make_nothing(house: House) -> None:
    filtered = await house.client(
        "teacher", "admin:users!group=7b", "admin:users!user=new", "admin:groups!group=7c", admin=True)
    await filtered.post("users", {"usernames": ["new"]}, 403)
    await filtered.post("users/new", None, 403)
    await filtered.post("groups", {"groups": ["7c"]}, 403)
    await filtered.post("groups/7c", None, 403)
    everything = await house.client("teacher")
    assert [user["name"] for user in await everything.get("users")] == ["teacher"]
    assert await everything.get("groups") == []


async def test_ghsa_mj6q_rights_follow_the_person_and_not_the_name(house: House, admin: Client) -> None:
    """After a rename, whoever gets the old name gets nothing of what the old owner of it had."""
    await admin.post("groups/7b", {"users": ["alice"]}, 400)
    await admin.post("users", {"usernames": ["alice"]})
    await admin.post("groups/7b", {"users": ["alice"]})
    alice = await house.client("alice", "servers!user", "read:users!user")
    await admin.patch("users/alice", {"name": "alicia"})
    await admin.post("users/alice")
    assert (await admin.get("users/alice"))["groups"] == []
    assert (await alice.get("user"))["name"] == "alicia"
    await alice.post("users/alice/server", status=404)
    await alice.post("users/alicia/server", status=202)
    await house.until("alicia", Phase.READY)


async def test_cve_2026_54338_huge_names_are_cut_before_they_are_logged_or_shown(
    house: House, admin: Client, caplog: pytest.LogCaptureFixture,
) -> None:
    huge = "x" * 60_000
    caplog.set_level(logging.DEBUG, logger="appliance")
    for method, path, body in (("GET", f"users/{huge}", None), ("POST", f"users/{huge}", None),
                               ("POST", f"groups/{huge}", None), ("POST", "users", {"usernames": [huge]}),
                               ("POST", "groups", {"groups": [huge]}),
                               ("POST", "users/teacher/tokens", {"note": huge}), ("GET", f"users?name_filter={huge}", None),
                               ("PUT", f"users/teacher/servers/{huge}", None), ("GET", f"users?sort={huge}", None)):
        response = await admin(method, path, json=body)
        assert response.status_code < 500
        assert len(response.content) < 1000, (method, path[:20])
    assert all(len(record.getMessage()) < 2000 for record in caplog.records if record.name.startswith("appliance"))


async def test_cve_2020_36191_a_session_alone_changes_nothing(house: House) -> None:
    """Without the XSRF token, from another origin or without any: a cookie that a browser sends by itself is not enough."""
    session, value = await house.hub.sessions.begin(
        await house.user("teacher", admin=True), origin="http://box.test", address="", user_agent="")
    browser = Client(house.app)
    for headers in ({}, {"Origin": "http://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Mode": "no-cors"},
                    {"X-XSRFToken": "x"}, {"Cookie": "_xsrf=x", "X-XSRFToken": "x"}):
        cookie = f"jupyterhub-hub-login={value}"
        sent = headers | {"Cookie": f"{cookie}; {headers['Cookie']}" if "Cookie" in headers else cookie}
        await browser.get("user", headers=sent) if not headers else None
        for method, path in (("POST", "users/new"), ("DELETE", "users/teacher"), ("PATCH", "users/teacher"),
                             ("PUT", "groups/7b/properties"), ("POST", "shutdown")):
            assert (await browser(method, path, headers=sent, json={})).status_code == 403
    assert house.ends == 0
    await house.hub.sessions.sign_out(session)


async def test_nothing_outlives_a_server_that_has_stopped(house: House, alice: Client) -> None:
    """The token of a running server dies with its stop."""
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    [spec] = house.box.spawner.engine.specs.values()  # type: ignore[attr-defined]
    token = spec.environment["JUPYTERHUB_API_TOKEN"]
    server = Client(house.app, token)
    assert (await server.get("user"))["name"] == "alice"
    await server.post("users/alice/activity", {"last_activity": "2020-01-01T00:00:00Z"}, 200)
    for method, path in (("GET", "users/alice/server"), ("POST", "users/alice/server"), ("GET", "users"),
                         ("POST", "users/alice/tokens"), ("GET", "users/alice/tokens"), ("DELETE", "users/alice/server")):
        assert (await server(method, path)).status_code == 403, (method, path)
    await alice.delete("users/alice/server", status=202)
    await house.until("alice", Phase.STOPPED)
    await server.get("user", 403)
    await server.post("users/alice/activity", {"last_activity": "2020-01-01T00:00:00Z"}, 403)
