"""What a person may choose for a server: images and profiles, as the configuration lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.domain.limits import parse_bytes, parse_cores
from appliance.domain.nearest import no_such_keys
from appliance.errors import BadOption

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROFILE_KEYS = ("display_name", "slug", "description", "default", "groups", "image", "mem_limit", "cpu_limit", "environment",
                 "default_url")
_OTHER_PROFILES = (("kubespawner_override", "write the keys of kubespawner_override directly into the profile"),
                   ("profile_options", "write a profile for each choice instead of profile_options"))
_START_KEYS = ("image", "mem_limit", "cpu_limit", "environment")


@dataclass(frozen=True)
class Person:
    """What functions of the configuration learn of whom they decide for."""

    name: str
    admin: bool = False
    groups: tuple[str, ...] = ()
    user_options: Mapping[str, object] = field(default_factory=dict)     # of the server's last start

    @property
    def user(self) -> Person:
        """Functions written for JupyterHub look for a spawner's `user`, as with the next."""
        return self

    @property
    def current_user(self) -> Person:
        return self


@dataclass(frozen=True)
class NamedServers:
    """limit: how many each may have, 0 for any number; or a function of the Person."""

    allowed: bool = False
    limit: int | Callable[[Person], int] = 0
    default_name: str = ""      # the server that links lead to which name none


@dataclass(frozen=True)
class ImageChoice:
    """One image that a person may choose."""

    name: str             # what a form or a program sends
    image: str
    display_name: str     # what people see
    description: str = ""

    def is_called(self, said: str) -> bool:
        return said in (self.name, self.image, self.display_name)


@dataclass(frozen=True)
class StartWith:
    """What one start differs in from the spawner's own settings. "" and None: as those."""

    image: str = ""
    mem_limit_bytes: int | None = None
    cpu_limit: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """One entry of a list of ways to start a server."""

    slug: str
    display_name: str
    description: str = ""
    default: bool = False
    groups: tuple[str, ...] = ()      # who it is offered to; nobody named: everybody
    default_url: str = ""             # "" as the image's
    start: StartWith = field(default_factory=StartWith)

    def is_for(self, groups: Sequence[str]) -> bool:
        return not self.groups or not set(self.groups).isdisjoint(groups)


def parse_images(said: object) -> tuple[ImageChoice, ...]:
    """Read ["image", …], {"name": "image"} or {"name": {"image", "display_name", "description"}}. Raises BadOption."""
    if isinstance(said, Mapping):
        return tuple(_image(str(name), value) for name, value in said.items())
    if isinstance(said, (list, tuple, set, frozenset)):
        return tuple(_image(_text("an image", image), image) for image in said)
    raise BadOption("Images are a list of them, or a dictionary of names and images.")


def parse_profiles(said: Sequence[object]) -> tuple[Profile, ...]:
    """Read [{"display_name", "slug", "description", "default", "groups", "image", "mem_limit", "cpu_limit", "environment",
    "default_url"}, …]; all but the first may be left out. Raises BadOption."""
    found = tuple(_profile(each, number) for number, each in enumerate(said, 1))
    for profile in found:
        if [other.slug for other in found].count(profile.slug) > 1:
            raise BadOption(f"Two profiles are called “{profile.slug}”; give each a “slug” of its own.")
    return found


def parse_start(said: object, what: str = "What a start is made with") -> StartWith:
    """Read {"image", "mem_limit", "cpu_limit", "environment"}. Raises BadOption."""
    if not isinstance(said, Mapping):
        raise BadOption(f"{what} is a dictionary.")
    if unknown := sorted(str(key) for key in said if key not in _START_KEYS):
        raise BadOption(no_such_keys(what, unknown, _START_KEYS))
    return StartWith(
        image=_text(f"{what}: “image”", said["image"]) if said.get("image") else "",
        mem_limit_bytes=parse_limit_bytes(said.get("mem_limit")), cpu_limit=parse_cores(said.get("cpu_limit")),
        environment=_environment(said.get("environment") or {}, what))


def parse_limit_bytes(said: object) -> int | None:
    """Raises BadOption for what is too little for any program, too."""
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, (str, int, float)):
        raise BadOption("“mem_limit” is a size like 512M or 2G.")
    count = parse_bytes(said)
    if not 16 << 20 <= count < 1 << 60:
        raise BadOption("“mem_limit” is at least 16M.")
    return count


def _image(name: str, said: object) -> ImageChoice:
    if isinstance(said, Mapping):
        known = ("image", "display_name", "description")
        if unknown := sorted(set(map(str, said)).difference(known)):
            raise BadOption(no_such_keys(f"Image “{name}”", unknown, known))
        return ImageChoice(name, _text(f"The “image” of “{name}”", said.get("image")),
                           str(said.get("display_name") or name), str(said.get("description") or ""))
    return ImageChoice(name, _text(f"Image “{name}”", said), name)


def _profile(said: object, number: int) -> Profile:
    what = f"Profile {number}"
    if not isinstance(said, Mapping):
        raise BadOption(f"{what} is a dictionary with a “display_name”.")
    if unknown := sorted(str(key) for key in said if key not in _PROFILE_KEYS):
        raise BadOption(no_such_keys(what, unknown, _PROFILE_KEYS, _OTHER_PROFILES))
    name = _text(f"{what}: “display_name”", said.get("display_name"))
    slug = str(said.get("slug") or "-".join(re.findall(r"[a-z0-9]+", name.lower())))
    if not _SLUG.fullmatch(slug):
        raise BadOption(f"{what} needs a “slug” of small letters, digits, '.', '_' and '-', by which links can name it.")
    groups = said.get("groups") or ()
    if not isinstance(groups, (list, tuple, set, frozenset)) or not all(isinstance(group, str) for group in groups):
        raise BadOption(f"{what}: “groups” is a list of names.")
    default_url = str(said.get("default_url") or "")
    if default_url and (not default_url.startswith("/") or not default_url.isprintable() or " " in default_url):
        raise BadOption(f"{what}: “default_url” begins with a slash, like /lab.")
    return Profile(slug, name, str(said.get("description") or ""), said.get("default") is True, tuple(groups), default_url,
                   parse_start({key: said[key] for key in _START_KEYS if key in said}, what))


def _environment(said: object, what: str) -> dict[str, str]:
    if not isinstance(said, Mapping):
        raise BadOption(f"{what}: “environment” is a dictionary of names and values.")
    for name, value in said.items():
        if not _VARIABLE.fullmatch(str(name)) or "\0" in str(value):
            raise BadOption(f"{what}: “environment” cannot have a variable {str(name)[:40]!r}.")
    return {str(name): str(value) for name, value in said.items()}


def _text(what: str, said: object) -> str:
    if not isinstance(said, str) or not said.strip() or len(said) > 255 or not said.isprintable():
        raise BadOption(f"{what} has to be a text.")
    return said
