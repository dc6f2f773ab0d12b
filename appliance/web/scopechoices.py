"""The scopes that somebody may give a token, as a form offers them: what is one's own first, the rest by what it is about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from appliance.domain.scopes import INHERIT, NO_SCOPE, SELF, Owner, Rights, Scope, expand
from appliance.web import words

_OWN = ("read:users", "users:activity", "read:servers", "servers", "access:servers", "tokens", "shares")
_REST, _CUSTOM = "The Hub", "Of this box's own"
# how a scope's name ends tells what it is about; the first that fits
_SUBJECTS = (("shares", "Shares"), ("users", "Users"), ("auth_state", "Users"), ("servers", "Servers"),
             ("server_state", "Servers"), ("tokens", "Tokens"), ("groups", "Groups"), ("services", "Services"))
_ORDER = ("Users", "Servers", "Groups", "Services", "Shares", "Tokens", _REST, _CUSTOM)
_OF_A_SUBJECT = ("users:activity", "read:users:name", "read:users:groups", "read:users:activity", "read:groups:name",
                 "read:services:name")


@dataclass(frozen=True)
class Choice:
    value: str
    words: str
    chosen: bool
    includes: tuple[str, ...] = ()


def own_choices(rights: Rights, known: Mapping[str, Scope], name: str, chosen: Collection[str]) -> list[Choice]:
    """Return what reaches only what is the person's own."""
    scopes = [f"{scope}!user" for scope in _OWN if rights.holds(f"{scope}!user={name}")]
    return [Choice(scope, words.scope(scope, known, name), scope in chosen) for scope in scopes]


def wide_choices(rights: Rights, known: Mapping[str, Scope], name: str, chosen: Collection[str]) -> dict[str, list[Choice]]:
    """Return what reaches others as well, by heading."""
    found: dict[str, list[Choice]] = {subject: [] for subject in _ORDER}
    for scope, described in known.items():
        if scope not in (INHERIT, SELF, NO_SCOPE) and rights.has(scope):
            found[_subject(scope)].append(
                Choice(scope, words.scope(scope, known, name), scope in chosen, described.subscopes))
    return {subject: choices for subject, choices in found.items() if choices}


def effective(scopes: Collection[str], rights: Rights, known: Mapping[str, Scope], name: str) -> list[str]:
    """Return in words what a token's scopes allow now: it never does more than its owner may."""
    found = []
    for scope in scopes:
        if scope.partition("!")[0] not in known:
            continue
        asked = expand([scope], Owner(user=name), known)
        if scope in (INHERIT, SELF, NO_SCOPE) or not rights.missing(asked):
            found.append(words.scope(scope, known, name))
        elif rights.narrowed(asked).expanded:
            found.append(f"{words.scope(scope, known, name)}, as far as you may yourself")
    return found


def _subject(scope: str) -> str:
    if scope.startswith("custom:"):
        return _CUSTOM
    if scope in _OF_A_SUBJECT:
        scope = scope.removeprefix("read:").partition(":")[0]
    return next((subject for end, subject in _SUBJECTS if scope.split(":")[-1] == end), _REST)
