"""The page of tokens and the question before a service learns a name: in a browser, with and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import httpx
import pytest
from box import Box, free_port
from playwright.sync_api import Page, expect

from .person import Person
from .test_looks import SIZES
from .test_looks import picture as picture

pytestmark = pytest.mark.browser

CONFIG = """
c.JupyterHub.services = [{{
    "name": "grader", "url": "http://127.0.0.1:{port}", "api_token": "for-this-test-only-0123456789",
    "oauth_client_allowed_scopes": ["read:users!user", "servers!user", "admin:users"]}}]
c.JupyterHub.load_roles = [{{"name": "user", "scopes": ["self", "access:services!service=grader"]}}]
"""
ASKED = "/hub/api/oauth2/authorize?" + urlencode({
    "client_id": "service-grader", "redirect_uri": "/services/grader/oauth_callback", "response_type": "code", "state": "s1"})


@pytest.fixture(scope="module")
def token_box() -> Iterator[Box]:
    with Box(CONFIG.format(port=free_port())) as box:
        yield box


def who(box: Box, token: str) -> tuple[int, str]:
    response = httpx.get(f"{box.url}/hub/api/user", headers={"Authorization": f"token {token}"}, trust_env=False)
    return response.status_code, response.text


@pytest.mark.parametrize("javascript", [True, False], ids=["", "without JavaScript"])
def test_a_token_is_made_used_and_ended(token_box: Box, person: Callable[..., Person], javascript: bool) -> None:
    ada = person(token_box, "ada", java_script_enabled=javascript)
    ada.sign_in("/hub/home")
    ada.click("Tokens for programs")
    ada.is_at("/hub/token")
    ada.sees("You have none.")
    ada.page.get_by_label("What is it for?").fill("homework script")
    ada.page.get_by_label("It is good for").select_option("7 days")
    ada.page.get_by_label("only what is ticked here").check()
    ada.page.get_by_label("read about users (only you)").check()
    ada.click("Make the token")
    ada.sees("Copy it now")
    secret = ada.page.locator("code.secret").inner_text()
    status, text = who(token_box, secret)
    assert status == 200
    assert "read:users!user=ada" in text
    assert "servers!user=ada" not in text.replace("access:servers!user=ada", "")
    ada.open("/hub/token")
    expect(ada.page.locator("code.secret")).to_have_count(0)
    ada.sees("homework script")
    ada.sees("last used")
    ada.click("End homework script")
    ada.sees("You have none.")
    assert who(token_box, secret)[0] == 403


def test_a_service_is_let_know_who_it_is_after_a_yes(token_box: Box, person: Callable[..., Person]) -> None:
    ben = person(token_box, "ben")
    ben.open(ASKED)
    ben.is_at("/hub/login*")
    ben.page.get_by_label("Name").fill("ben")
    ben.page.get_by_label("Password").fill(ben.password)
    ben.page.get_by_label("Password").press("Enter")
    ben.sees("May the service grader know who you are?")
    expect(ben.page.get_by_label("read about users (only you)")).to_be_checked()
    expect(ben.page.get_by_text("add, change and delete users")).to_have_count(0)
    ben.click("Do not agree")
    ben.is_at("/services/grader/oauth_callback?error=access_denied*state=s1")
    ben.open(ASKED)
    ben.click("Agree")
    ben.is_at("/services/grader/oauth_callback?code=*state=s1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_both_pages_fit_and_can_be_read(
        token_box: Box, person: Callable[..., Person], picture: Callable[[Page, str], None], size: str, scheme: str) -> None:
    look = f"{size}-{scheme}"
    chen = person(token_box, "chen", admin=True, viewport=SIZES[size], color_scheme=scheme)
    chen.sign_in("/hub/token")
    picture(chen.page, f"token-{look}")
    chen.page.get_by_label("What is it for?").fill("a script with a long name that nobody would write down like this")
    chen.page.get_by_label("only what is ticked here").check()
    chen.click("Make the token")
    chen.sees("Nothing is ticked")
    picture(chen.page, f"token-refused-{look}")
    chen.page.get_by_text("More", exact=True).click()
    chen.page.get_by_label("Other scopes of the REST API").fill("read:users list:groups servers!user=chen")
    picture(chen.page, f"token-more-{look}")
    chen.click("Make the token")
    chen.sees("Copy it now")
    picture(chen.page, f"token-made-{look}")
    chen.open(ASKED)
    chen.sees("May the service grader")
    picture(chen.page, f"oauth-{look}")
    chen.open("/hub/services")
    picture(chen.page, f"services-{look}")
    person(token_box, "carol@school.example")
    chen.open("/hub/admin")
    picture(chen.page, f"admin-long-{look}")
    assert chen.page.get_by_role("rowheader", name="carol@school.example").evaluate(
        "cell => { const text = document.createRange(); text.selectNode(cell.firstChild);"
        " return text.getClientRects().length }") == 1
    chen.open("/hub/services")
    for link in chen.page.get_by_label("Pages").get_by_role("link").all():
        assert link.evaluate("link => [...link.childNodes].every(text => { const words = document.createRange();"
                             " words.selectNode(text); return words.getClientRects().length === 1 })")
    chen.open("/hub/api/docs")
    chen.page.get_by_text("POST /hub/api/users/{name}/tokens").click()
    chen.page.get_by_text("PUT /hub/api/groups/{group}/properties").click()
    picture(chen.page, f"api-{look}")
    chen.open("/hub/services")
    card = chen.page.locator(".card").bounding_box()
    assert card
    for inside in (chen.page.get_by_text("grader").first, chen.page.get_by_label("Open grader")):
        box = inside.bounding_box()
        assert box
        assert card["x"] + 12 <= box["x"]
        assert box["x"] + box["width"] <= card["x"] + card["width"] - 12
