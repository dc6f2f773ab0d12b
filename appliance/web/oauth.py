"""The pages and addresses by which running servers and services learn who their visitor is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, parse_qsl, urlsplit

from starlette.responses import Response

from appliance.domain.urls import origin_of
from appliance.errors import BadInput
from appliance.hub.oauth import ErrorForClient, Question
from appliance.web import cookies, words
from appliance.web.security import content_security_policy
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect


@dataclass(frozen=True)
class Wish:
    scope: str
    words: str                     # "read about users (only you)"


@dataclass(frozen=True)
class ConfirmPage(Page):
    who: str                       # "alice's server"
    wishes: list[Wish]             # what it wants beyond the name
    action: str
    leads_to: str                  # "https://other.school", "" where it is this box


async def authorize(visit: Visit) -> Response:
    """A client has sent a browser here; it goes back with a code at once, or after a question."""
    try:
        question = await _question(visit)
    except ErrorForClient as error:
        return redirect(error.location)
    if question.must_confirm:
        return _confirm_page(visit, question)
    return redirect(await visit.hub.oauth.agree(question, visit.signed_in(), question.scopes))


async def confirm(visit: Visit) -> Response:
    """What somebody answered."""
    form = await visit.form()
    try:
        question = await _question(visit)
    except ErrorForClient as error:
        return redirect(error.location, 303)
    if form.get("answer") != "yes":
        return redirect(visit.hub.oauth.deny(question), 303)
    ticked = [scope for scope in form.getlist("scope") if isinstance(scope, str)]
    return redirect(await visit.hub.oauth.agree(question, visit.signed_in(), ticked), 303)


async def _question(visit: Visit) -> Question:
    session = visit.signed_in()
    cookies_of_it = visit.cookies.get(cookies.SESSION_ID, [])
    if session.id not in cookies_of_it:        # signed in before there was this cookie, or it was taken away
        visit.tell_session(session)
    try:
        params = parse_qs(visit.here.partition("?")[2], max_num_fields=50)
    except ValueError:
        raise BadInput("This link asks for too much at once.") from None
    assert visit.requester is not None
    return await visit.hub.oauth.ask(params, visit.requester)


def _confirm_page(visit: Visit, question: Question) -> Response:
    client, known = question.client, visit.hub.permissions.roles.scopes
    parts = urlsplit(client.redirect_uri)
    elsewhere = origin_of(parts.scheme, parts.netloc)
    response = render(visit, "oauth.html", ConfirmPage(
        who=client.shown, wishes=[Wish(scope, words.scope(scope, known, visit.somebody().name)) for scope in question.scopes],
        action=visit.here, leads_to="" if elsewhere in visit.own_origins else elsewhere))
    if elsewhere:   # a browser follows a form's redirect only to where the page says a form may lead
        response.headers["Content-Security-Policy"] = content_security_policy(elsewhere)
    return response


async def token(visit: Visit) -> Response:
    """What a client asks by itself, without any browser: a token for its code."""
    request = visit.request
    kind = request.headers.get("content-type", "application/x-www-form-urlencoded").partition(";")[0].strip().lower()
    try:
        body = (await request.body()).decode()
        form = parse_qsl(body, max_num_fields=50, errors="strict") if kind == "application/x-www-form-urlencoded" else []
    except ValueError:
        form = []
    answer = await visit.hub.oauth.exchange(form, request.headers.get("authorization", "")[:3000])
    return Response(answer.body, answer.status, headers={**answer.headers, "Content-Type": "application/json"})
