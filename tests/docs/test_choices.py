"""The examples of what people may choose do what their pages say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance import config
from appliance.domain.user import User
from appliance.hub.offers import Offer, Offers

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Ask = Callable[..., Awaitable[Offer]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def offers_of(name: str, *groups: str, admin: bool = False) -> Offers:
    """Return what the box of an example offers to a member of these groups."""
    settings = config.load_settings(["-f", str(EXAMPLES / name)])

    async def standing(user_id: int) -> tuple[bool, Mapping[str, Mapping[str, object]]]:
        return admin, {group: {} for group in groups}

    spawner = settings.make(settings.spawner_class)
    return Offers(spawner, standing, settings.named_servers, settings.group_limits)


def user() -> Any:
    return User(1, "ada", 100_001, False, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("groups", "slugs", "memory"), [
    ([], ["lessons"], None), (["7b"], ["lessons"], 768 << 20), (["11a"], ["lessons", "statistics"], None),
    (["7b", "data club"], ["lessons"], 2 << 30), (["data club"], ["lessons", "big"], 2 << 30)])
async def test_who_is_offered_which_profile(groups: list[str], slugs: list[str], memory: int | None) -> None:
    offer = await offers_of("profiles_config.py", *groups).of(user())
    assert [profile.slug for profile in offer.profiles] == slugs
    assert offer.limits.mem_limit_bytes == memory
    assert [choice.display_name for choice in offer.images] == ["Python", "R"]


async def test_how_many_named_servers_there_may_be() -> None:
    for admin, most in ((True, 0), (False, 2)):
        offers = offers_of("named_servers_config.py", admin=admin)
        assert offers.named.allowed
        assert await offers.most_named(await offers.of(user())) == most


async def test_the_form_escapes_what_was_typed_and_its_fields_become_limits() -> None:
    offers = offers_of("options_form_config.py")
    spawner: Any = offers.spawner
    offer = await offers.of(user())
    assert 'value=""' in await offers.form_html(offer)
    person = type(offer.person)("ada", user_options={"course": '"><script>'})
    assert "<script>" not in spawner.options_form(person)
    assert spawner.apply_user_options(person, {"size": "large", "course": "7"}) == {
        "mem_limit": "4G", "environment": {"COURSE": "7"}}
    for odd in ({}, {"size": []}, {"size": "huge"}, {"course": {}}):
        chosen, kept = await offers.choose(offer, odd)
        assert (chosen, kept) == ("", odd)
