"""What a server is told at its start: the contract of an unmodified jupyterhub-singleuser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.capability import read_server_token
from appliance.domain.server import Server
from appliance.domain.urls import Urls
from appliance.hub.specs import Specs
from appliance.testing import FakeEngine, FakeSpawner

from .conftest import KEY, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def specs(base: str = "/", public_origin: str = "", **traits: object) -> Specs:
    return Specs(Urls(base), FakeSpawner(FakeEngine(), **traits), 8081, KEY, public_origin)


async def server_of(world: World, name: str, server_name: str = "") -> Server:
    async with world.hub() as hub:
        return replace(await hub.start(name), name=server_name)


async def test_a_server_is_told_all_that_singleuser_asks_for(world: World) -> None:
    server = await server_of(world, "alice@x.org", "lab2")
    said = specs("/box/", "https://box.school").of(server, Path("/h"), "injected", {"EXTRA": "1"}).environment
    api = "http://127.0.0.1:8081/box/hub/api"
    assert {name: said[name] for name in said if not name.endswith("_TOKEN")} == {
        "EXTRA": "1",
        "JUPYTERHUB_ACTIVITY_URL": f"{api}/users/alice@x.org/activity",
        "JUPYTERHUB_API_URL": api,
        "JUPYTERHUB_BASE_URL": "/box/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice%40x.org-lab2",
        "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED": "0",
        "JUPYTERHUB_DEFAULT_URL": "/lab",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": said["JUPYTERHUB_OAUTH_SCOPES"],
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/box/user/alice@x.org/lab2/oauth_callback",
        "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": "[]",
        "JUPYTERHUB_OAUTH_SCOPES": said["JUPYTERHUB_OAUTH_SCOPES"],
        "JUPYTERHUB_PUBLIC_HUB_URL": "https://box.school/box/hub/",
        "JUPYTERHUB_PUBLIC_URL": "https://box.school/box/user/alice@x.org/lab2/",
        "JUPYTERHUB_SERVER_NAME": "lab2",
        "JUPYTERHUB_SERVICE_PREFIX": "/box/user/alice@x.org/lab2/",
        "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8888/box/user/alice@x.org/lab2/",
        "JUPYTERHUB_USER": "alice@x.org",
    }
    assert json.loads(said["JUPYTERHUB_OAUTH_SCOPES"]) == [
        "access:servers!server=alice@x.org/lab2", "access:servers!user=alice@x.org"]
    assert said["JUPYTER_TOKEN"] == "injected"
    assert said["JUPYTERHUB_API_TOKEN"] == said["JPY_API_TOKEN"]
    assert read_server_token(KEY, said["JUPYTERHUB_API_TOKEN"]) == (server.id, server.start_no)


async def test_each_start_has_a_token_of_its_own(world: World) -> None:
    server, told = await server_of(world, "alice"), specs()
    assert told.api_token(server) == told.api_token(server)
    assert told.api_token(server) != told.api_token(replace(server, start_no=server.start_no + 1))
    assert told.api_token(server) != told.api_token(replace(server, id="another2222"))


async def test_what_is_not_configured_is_left_to_the_client_to_find_out(world: World) -> None:
    said = specs(oauth_client_allowed_scopes=["read:users!user"]).of(
        await server_of(world, "alice"), Path("/h"), None, {}).environment
    assert said["JUPYTERHUB_PUBLIC_URL"] == said["JUPYTERHUB_PUBLIC_HUB_URL"] == said["JUPYTERHUB_SERVER_NAME"] == ""
    assert json.loads(said["JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES"]) == ["read:users!user"]
    assert "JUPYTER_TOKEN" not in said
    assert said["JUPYTERHUB_CLIENT_ID"] == "jupyterhub-user-alice"
