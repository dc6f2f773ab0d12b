"""PAM, asked for real users of this machine that the test makes and removes."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from traitlets.config import Config

from appliance.authenticators.pam import PAMAuthenticator
from appliance.errors import LoginRefused
from appliance.ports import Identity, LoginRequest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes users of this machine, which needs root"),
]

PASSWORD = "kafé und brötchen"


def run(*command: str, **more: Any) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    name = f"pamtest{secrets.token_hex(3)}"
    run("useradd", "--no-create-home", "--shell", "/bin/sh", name)
    try:
        run("chpasswd", input=f"{name}:{PASSWORD}")
        yield name
    finally:
        run("userdel", name)


def sign_in(name: str, password: str, **options: Any) -> Identity:
    made = PAMAuthenticator(config=Config({"Authenticator": options}))
    return anyio.run(made.get_authenticated_user, LoginRequest(), {"username": name, "password": password})


def test_user_of_this_machine_signs_in(user: str) -> None:
    assert sign_in(user, PASSWORD) == Identity(user)


def test_name_is_normalised_first(user: str) -> None:
    assert sign_in(f" {user.upper()} ", PASSWORD).name == user


@pytest.mark.parametrize("password", ["wrong", "", PASSWORD + "\0", PASSWORD + "\0more", "x" * 5000, "\ud800"])
def test_wrong_password_is_refused(user: str, password: str) -> None:
    with pytest.raises(LoginRefused) as refused:
        sign_in(user, password)
    assert refused.value.sentence == LoginRefused.sentence


@pytest.mark.parametrize("name", ["", "nosuchuser", "..", "a" * 5000, "root\0", "nobody", "daemon"])
def test_who_has_no_password_here_is_refused(name: str) -> None:
    with pytest.raises(LoginRefused):
        sign_in(name, "x")


def test_allowed_users_names_the_only_ones(user: str) -> None:
    assert sign_in(user, PASSWORD, allowed_users={user}).name == user
    with pytest.raises(LoginRefused):
        sign_in(user, PASSWORD, allowed_users={"somebody"})


def test_blocked_user_is_refused_with_the_right_password(user: str) -> None:
    with pytest.raises(LoginRefused):
        sign_in(user, PASSWORD, blocked_users={user}, allow_all=True)


def test_locked_account_is_refused(user: str) -> None:
    run("chage", "--expiredate", "1", user)
    try:
        with pytest.raises(LoginRefused):
            sign_in(user, PASSWORD)
    finally:
        run("chage", "--expiredate", "-1", user)


def test_root_by_another_name_enters_only_as_a_named_admin(user: str) -> None:
    name = f"{user}root"
    run("useradd", "--no-create-home", "--non-unique", "--uid", "0", "--gid", "0", name)
    try:
        run("chpasswd", input=f"{name}:{PASSWORD}")
        with pytest.raises(LoginRefused):
            sign_in(name, PASSWORD)
        assert sign_in(name, PASSWORD, admin_users={name}) == Identity(name, admin=True)
    finally:
        run("userdel", "--force", name)
