"""What a group changes of its members' servers: in `c.JupyterHub.group_limits`, and the same keys among a group's properties.

Of several groups the highest limit holds, lists are added up, and the image is that of the first group by name. A group's
properties go before the configuration's words for the same group, key by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from appliance.domain.limits import parse_cores
from appliance.domain.nearest import no_such_keys
from appliance.domain.offers import ImageChoice, parse_images, parse_limit_bytes
from appliance.errors import BadOption

KEYS = ("mem_limit", "cpu_limit", "image", "allowed_images", "profiles", "max_named_servers")
_MOST_NAMED = 1000
_Number = TypeVar("_Number", int, float)
_Item = TypeVar("_Item", str, ImageChoice)


@dataclass(frozen=True)
class GroupLimits:
    """None: nothing is said of it."""

    mem_limit_bytes: int | None = None
    cpu_limit: float | None = None
    image: str | None = None
    allowed_images: tuple[ImageChoice, ...] | None = None
    profiles: tuple[str, ...] | None = None        # slugs
    max_named_servers: int | None = None           # 0: no limit

    def named_images(self) -> tuple[ImageChoice, ...]:
        """Return every image it speaks of."""
        own = (ImageChoice(self.image, self.image, self.image),) if self.image else ()
        return (*(self.allowed_images or ()), *own)


def parse_limits(said: object) -> GroupLimits:
    """Read the words of one group, of which every key is ours. Raises BadOption."""
    if not isinstance(said, Mapping):
        raise BadOption("The limits of a group are a dictionary.")
    if unknown := sorted(str(key) for key in said if key not in KEYS):
        raise BadOption(no_such_keys("A group", unknown, KEYS))
    return check_properties(said)


def check_properties(said: Mapping[str, object]) -> GroupLimits:
    """Read a group's properties, among which there may be anybody's keys. Raises BadOption for a wrong value of ours."""
    profiles, most = said.get("profiles"), said.get("max_named_servers")
    if profiles is not None and not (
            isinstance(profiles, (list, tuple)) and all(isinstance(slug, str) and len(slug) < 64 for slug in profiles)):
        raise BadOption("“profiles” is a list of profiles' slugs.")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= _MOST_NAMED):
        raise BadOption(f"“max_named_servers” is a number from 0, which is no limit, to {_MOST_NAMED}.")
    image = said.get("image")
    if image is not None and (not isinstance(image, str) or not 0 < len(image) <= 255):
        raise BadOption("“image” has to be the name of an image.")
    images = said.get("allowed_images")
    return GroupLimits(
        mem_limit_bytes=parse_limit_bytes(said.get("mem_limit")), cpu_limit=parse_cores(said.get("cpu_limit")), image=image,
        allowed_images=None if images is None else parse_images(images),
        profiles=None if profiles is None else tuple(profiles), max_named_servers=most)


def read_properties(said: Mapping[str, object]) -> GroupLimits:
    """As check_properties, of rows that are there: a key that cannot be read says nothing, the others still hold."""
    found = GroupLimits()
    for key in KEYS:
        if said.get(key) is not None:
            try:
                found = _over(found, check_properties({key: said[key]}))
            except BadOption:
                continue
    return found


def of_group(configured: GroupLimits | None, properties: GroupLimits) -> GroupLimits:
    return _over(configured, properties) if configured is not None else properties


def merged(groups: Iterable[GroupLimits]) -> GroupLimits:
    """Return what holds for a member of all of these, which come in the order of their names."""
    found = GroupLimits()
    for group in groups:
        most = (found.max_named_servers, group.max_named_servers)
        found = GroupLimits(
            mem_limit_bytes=_highest(found.mem_limit_bytes, group.mem_limit_bytes),
            cpu_limit=_highest(found.cpu_limit, group.cpu_limit), image=found.image or group.image,
            allowed_images=_together(found.allowed_images, group.allowed_images),
            profiles=_together(found.profiles, group.profiles),
            max_named_servers=0 if 0 in most else _highest(*most))
    return found


def _over(below: GroupLimits, above: GroupLimits) -> GroupLimits:
    said = {each.name: getattr(above, each.name) for each in fields(above) if getattr(above, each.name) is not None}
    return replace(below, **said)


def _highest(one: _Number | None, other: _Number | None) -> _Number | None:
    return one if other is None else other if one is None else max(one, other)


def _together(one: tuple[_Item, ...] | None, other: tuple[_Item, ...] | None) -> tuple[_Item, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(dict.fromkeys(one + other))
