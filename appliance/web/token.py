"""The page of one's own API tokens: what there is, what each may do, when it was last used, and how to make or end one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from starlette.datastructures import FormData
from starlette.responses import Response

from appliance.domain.requester import Requester
from appliance.domain.scopes import INHERIT
from appliance.domain.user import ApiToken
from appliance.errors import ApplianceError, BadInput, BadOption
from appliance.web.errors import status_of
from appliance.web.scopechoices import Choice, effective, own_choices, wide_choices
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect

LIFETIMES = ((3600, "an hour"), (86_400, "a day"), (7 * 86_400, "7 days"), (30 * 86_400, "30 days"), (365 * 86_400, "a year"))
USUAL_S = 30 * 86_400
_EVERYTHING = "everything you may do"


@dataclass(frozen=True)
class TokenLine:
    """A token of one's own, or everything that one program was allowed by OAuth."""

    id: str                        # "a12", or the program's client id
    note: str
    may: list[str]                 # words
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class Filled:
    """What the form holds: as it begins, or as somebody sent it."""

    note: str = ""
    expires: str = str(USUAL_S)
    limited: bool = False
    scopes: frozenset[str] = frozenset()
    more: str = ""


@dataclass(frozen=True)
class TokenPage(Page):
    tokens: list[TokenLine]
    programs: list[TokenLine]
    filled: Filled
    lifetimes: list[Choice]
    own: list[Choice]              # scopes that reach what is one's own
    wide: Mapping[str, list[Choice]]     # and others, by heading
    open_wide: bool                # one of them is chosen
    secret: str = ""               # of the token just made
    made: TokenLine | None = None  # that token
    error: str = ""
    api_url: str = ""


async def show_tokens(visit: Visit) -> Response:
    return await _page(visit, Filled())


async def make_token(visit: Visit) -> Response:
    """The answer is the page with the new token on it, which is nowhere else and cannot be shown again."""
    filled = _read(await visit.form())
    requester = _requester(visit)
    try:
        scopes = _scopes(filled)
        secret, token = await visit.hub.tokens.create(
            visit.somebody(), note=filled.note, expires_in_s=_lifetime(filled.expires), scopes=scopes, by=requester)
    except ApplianceError as error:
        action = error.action.replace("/hub/", visit.urls.hub)
        return await _page(visit, filled, error=f"{error.sentence} {action}", status=status_of(error))
    return await _page(visit, Filled(), secret=secret, made=_line(visit, token.api_id, [token]), status=201)


async def end_token(visit: Visit) -> Response:
    """End one token, or all of one program."""
    user, ended = visit.somebody(), (await visit.field("token"))[:1000]
    for token in await visit.hub.tokens.list(user):
        if ended and ended in (token.api_id, token.client_id):
            await visit.hub.tokens.revoke(token, actor=user.name)
    return redirect(visit.hub_url("token"), 303)


# -- what was sent -----------------------------------------------------------------------------------------------------
def _read(form: FormData) -> Filled:
    def text(name: str, most: int) -> str:
        value = form.get(name, "")
        return value.strip()[:most] if isinstance(value, str) else ""

    ticked = frozenset(scope for scope in form.getlist("scope") if isinstance(scope, str))
    more = text("more", 10_000)
    # whoever ticks or names something wants that and no more, wherever the button above it stands
    limited = text("limit", 20) == "some" or bool(ticked or more)
    return Filled(text("note", 1000), text("expires", 20), limited, ticked, more)


def _scopes(filled: Filled) -> list[str] | None:
    if not filled.limited:
        return [INHERIT]
    scopes = [*sorted(filled.scopes), *filled.more.replace(",", " ").split()]
    if not scopes:
        raise BadInput("Nothing is ticked, so the token could do nothing.", action="Tick what it is for.")
    return scopes


def _lifetime(said: str) -> int | None:
    if said == "never":
        return None
    if said not in {str(seconds) for seconds, _ in LIFETIMES}:
        raise BadOption("That is none of the times a token can live for.", action="Choose one from the list.")
    return int(said)


# -- the page ----------------------------------------------------------------------------------------------------------
def _requester(visit: Visit) -> Requester:
    assert visit.requester is not None
    return visit.requester


async def _page(visit: Visit, filled: Filled, *, secret: str = "", error: str = "", made: TokenLine | None = None,
                status: int = 200) -> Response:
    found = sorted(await visit.hub.tokens.list(visit.somebody()), key=lambda token: token.created_at, reverse=True)
    programs = groupby(sorted(filter(_client_of, found), key=_client_of), _client_of)
    asked = _requester(visit).rights, visit.hub.permissions.roles.scopes, visit.somebody().name, filled.scopes
    wide = wide_choices(*asked)
    return render(visit, "token.html", TokenPage(
        tokens=[_line(visit, token.api_id, [token]) for token in found if not token.client_id],
        programs=[_line(visit, client_id, list(given)) for client_id, given in programs],
        filled=filled, lifetimes=_lifetimes(visit, filled), own=own_choices(*asked), wide=wide,
        open_wide=any(choice.chosen for choices in wide.values() for choice in choices), secret=secret, made=made, error=error,
        api_url=f"{visit.origin}{visit.urls.api.removesuffix('/')}",
    ), status)


def _client_of(token: ApiToken) -> str:
    return token.client_id


def _line(visit: Visit, line_id: str, tokens: Sequence[ApiToken]) -> TokenLine:
    known, name = visit.hub.permissions.roles.scopes, visit.somebody().name
    scopes = dict.fromkeys(scope for token in tokens for scope in token.scopes)
    may = [_EVERYTHING] if INHERIT in scopes else effective(scopes, _requester(visit).rights, known, name)
    used = [token.last_used_at for token in tokens if token.last_used_at]
    ends = [token.expires_at for token in tokens]
    return TokenLine(
        line_id, tokens[0].note, may, min(token.created_at for token in tokens),
        None if None in ends else max(end for end in ends if end), max(used, default=None))


def _lifetimes(visit: Visit, filled: Filled) -> list[Choice]:
    longest = visit.hub.tokens.longest_s
    found = [Choice(str(seconds), text, filled.expires == str(seconds)) for seconds, text in LIFETIMES
             if not longest or seconds <= longest]
    return found if longest else [*found, Choice("never", "until you end it", filled.expires == "never")]

