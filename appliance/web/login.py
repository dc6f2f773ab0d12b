"""Signing in, signing out, and the first password of one's own."""

from __future__ import annotations

import logging
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from appliance.domain.capability import cookie_name
from appliance.domain.user import Session
from appliance.errors import ApplianceError, BadInput, BadXsrf, LoginRefused, LoginThrottled, NotFound
from appliance.hub.accounts import SignedIn
from appliance.ports import LoginRequest
from appliance.web import cookies, options, security
from appliance.web.errors import status_of
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect, sign_in_by_cookie

log = logging.getLogger(__name__)

_PRIVATE_HEADERS = frozenset({"cookie", "authorization", "x-appliance-proxy"})


@dataclass(frozen=True)
class LoginPage(Page):
    action: str
    username: str = ""
    error: str = ""
    signed_out: bool = False
    help_url: str = ""       # where it says how to trust a box with an authority of its own


@dataclass(frozen=True)
class LogoutPage(Page):
    pass


@dataclass(frozen=True)
class PasswordPage(Page):
    action: str
    forced: bool
    error: str = ""


async def show_login(visit: Visit) -> Response:
    if visit.session is not None:
        return redirect(visit.next(visit.hub_url("home")))
    return _login_form(visit, signed_out="signed_out" in visit.request.query_params)


async def sign_in(visit: Visit) -> Response:
    form = await visit.form()
    data = {name: value for name, value in form.items() if isinstance(value, str) and name != "_xsrf"}
    username = data.get("username", "")
    try:
        security.check_origin(visit.request.headers, visit.own_origins)
        await visit.check_xsrf()
        refuse_odd(data)
        signed_in = await _check(visit, data)
    except (LoginRefused, LoginThrottled, BadXsrf) as error:
        known = username if len(username) <= 64 and username.isprintable() else ""
        response = _login_form(visit, status_of(error), username=known, error=error.sentence)
        if isinstance(error, LoginThrottled):
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    if visit.session is not None and visit.session.user.id != signed_in.session.user.id:
        await _end(visit, visit.session)
    await sign_in_by_cookie(visit, signed_in.session)
    _forget_sessions(visit)
    name = cookies.session_name(visit.hub.key("session cookie"), signed_in.session.id)
    visit.set_cookie(name, signed_in.token, max_age_s=visit.hub.sessions.cookie_max_age_s)
    visit.set_cookie(cookies.DEVICE, signed_in.device, max_age_s=cookies.DEVICE_MAX_AGE_S)
    visit.tell_session(signed_in.session)
    visit.xsrf()
    return await _go_on(visit, signed_in.session)


async def _check(visit: Visit, data: Mapping[str, str]) -> SignedIn:
    """Begin a session and measure how long that takes. Who is turned away unchecked, after too many tries, is not measured."""
    began_at = time.perf_counter()
    try:
        signed_in = await visit.hub.accounts.sign_in(
            login_request(visit), data, origin=visit.origin,
            device=next(iter(visit.cookies.get(cookies.DEVICE, [])), None))
    except LoginRefused:
        visit.hub.metrics.signed_in(time.perf_counter() - began_at, ok=False)
        raise
    visit.hub.metrics.signed_in(time.perf_counter() - began_at, ok=True)
    return signed_in


async def _go_on(visit: Visit, session: Session) -> Response:
    """Send somebody who just signed in to where they wanted, with their server already starting."""
    user, target = session.user, visit.next()
    if user.must_change_password:
        return redirect(visit.hub_url("change-password", next=target))
    landing = visit.hub.after_sign_in
    own = (visit.urls.server(user.name), visit.hub_url("user-redirect/"))
    if (not target and landing == "spawn") or target.startswith(own):
        try:   # while the browser is still being redirected
            await options.start_ahead(visit, user, target)
        except ApplianceError as error:   # the next page tells
            log.info("no server for %s at sign-in: %s", user.name, error.code)
    return redirect(target or (landing if landing.startswith("/") else visit.hub_url(landing)))


def _login_form(
    visit: Visit, status: int = 200, *, username: str = "", error: str = "", signed_out: bool = False,
) -> Response:
    target = visit.request.query_params.get("next", "") and visit.next()
    page = LoginPage(visit.hub_url("login", next=target), username, error, signed_out,
                     help_url=visit.hub_url("help") if visit.hub.authority_file else "")
    return render(visit, "login.html", page, status)


def refuse_odd(data: dict[str, str]) -> None:
    """Raises LoginRefused for what no account has, before anything works on it or writes it down."""
    username = data.get("username", "")
    if len(username) > 256 or len(data.get("password", "")) > 4096:
        raise LoginRefused()
    if any(unicodedata.category(char)[0] == "C" for char in username):
        raise LoginRefused()


def login_request(visit: Visit) -> LoginRequest:
    headers = {name: value for name, value in visit.request.headers.items() if name not in _PRIVATE_HEADERS}
    return LoginRequest(visit.address, visit.user_agent, headers)


# -- out ---------------------------------------------------------------------------------------------------------------
async def show_logout(visit: Visit) -> Response:
    """A link inside Lab signs out at once; a link on somebody else's site only asks."""
    if visit.session is not None and visit.request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return render(visit, "logout.html", LogoutPage())
    return await sign_out(visit)


async def sign_out(visit: Visit) -> Response:
    if visit.session is not None:
        await _end(visit, visit.session)
    _forget_sessions(visit)
    visit.set_cookie(security.XSRF_COOKIE, "", max_age_s=0)
    visit.set_cookie(cookies.SESSION_ID, "", path=visit.urls.base, max_age_s=0)
    return redirect(visit.hub_url("login", signed_out="1"))


def _forget_sessions(visit: Visit) -> None:
    for name in cookies.session_names(visit.cookies)[:20]:
        visit.set_cookie(name, "", max_age_s=0)


async def _end(visit: Visit, session: Session) -> None:
    """End a session in all its tabs, and take its browser's key to the server away."""
    await visit.hub.sessions.sign_out(session)
    server = await visit.hub.servers.view(session.user.name)
    if server is not None and server.id:
        visit.set_cookie(cookie_name(server.id), "", path=visit.urls.server(server.user_name), max_age_s=0)


# -- passwords ---------------------------------------------------------------------------------------------------------
async def show_change_password(visit: Visit) -> Response:
    if not visit.hub.accounts.manages_passwords:
        raise NotFound("Passwords of these accounts are kept elsewhere and cannot be changed here.")
    return _password_form(visit)


async def change_password(visit: Visit) -> Response:
    if not visit.hub.accounts.manages_passwords:
        raise NotFound("Passwords of these accounts are kept elsewhere and cannot be changed here.")
    old, new, again = [await visit.field(name) for name in ("old", "new", "again")]
    if max(len(old), len(new)) > 4096:
        return _password_form(visit, "A password has at most 4096 characters.")
    if new != again:
        return _password_form(visit, "The two new passwords are not the same.")
    user = visit.signed_in().user
    try:
        await visit.hub.accounts.change_password(user, old, new)
    except LoginRefused:
        return _password_form(visit, "The old password is not right.", 403)
    except BadInput as error:
        return _password_form(visit, error.sentence)
    fallback = visit.hub_url("spawn" if user.must_change_password else "home")
    return redirect(visit.next(fallback), 303)


def _password_form(visit: Visit, error: str = "", status: int = 0) -> Response:
    target = visit.request.query_params.get("next", "") and visit.next()
    page = PasswordPage(
        visit.hub_url("change-password", next=target), visit.somebody().must_change_password, error)
    return render(visit, "change-password.html", page, status or (400 if error else 200))
