from __future__ import annotations

import pytest

from appliance.domain.oauth import read_server_client_id, server_client_id

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("user", "server"), [
    ("alice", ""), ("alice", "lab2"), ("a-b", ""), ("a", "b"), ("a", "b-c"), ("a-b", "c"), ("josé@school.de", "x.y_z")])
def test_a_client_s_id_says_which_server_it_is_and_can_be_the_name_of_a_cookie(user: str, server: str) -> None:
    client_id = server_client_id(user, server)
    assert read_server_client_id(client_id) == (user, server)
    assert client_id.startswith("jupyterhub-user-")
    assert not set(client_id) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._%~")


def test_usual_names_have_the_ids_that_jupyterhub_gives_them() -> None:
    assert server_client_id("alice") == "jupyterhub-user-alice"
    assert server_client_id("alice@x.org", "lab2") == "jupyterhub-user-alice%40x.org-lab2"


@pytest.mark.parametrize("client_id", [
    "", "jupyterhub-user-", "jupyterhub-user-a-b-c", "jupyterhub-user-ALICE", "jupyterhub-user-%61lice",
    "jupyterhub-user-a%2db",
    "jupyterhub-user-%ff", "jupyterhub-user-..", "jupyterhub-user-alice-", "service-alice", " jupyterhub-user-alice",
    "jupyterhub-user-alice\n", "jupyterhub-user-" + "a" * 5000])
def test_no_other_spelling_is_an_id(client_id: str) -> None:
    assert read_server_client_id(client_id) is None
