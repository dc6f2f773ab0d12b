"""What each person may choose for a server, and what a start is made with.

Everything is decided here, whatever a form, a link or a program sent: what is not offered to somebody is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio.to_thread

from appliance.domain.group_limits import GroupLimits, check_properties, merged, of_group, read_properties
from appliance.domain.names import validate_display_name, validate_new_servername, validate_servername
from appliance.domain.nearest import nearest
from appliance.domain.offers import ImageChoice, NamedServers, Person, Profile, StartWith, parse_start
from appliance.domain.server import Server
from appliance.domain.user import User
from appliance.domain.user_options import check_user_options
from appliance.errors import ApplianceError, BadInput, BadOption, ImageNotAllowed, Misconfigured
from appliance.ports import Spawner

Standing = tuple[bool, Mapping[str, Mapping[str, object]]]     # is somebody an admin, and the properties of each group
_Value = TypeVar("_Value", int, float)


@dataclass(frozen=True)
class Offer:
    """What one person may choose for one server."""

    person: Person
    limits: GroupLimits
    images: tuple[ImageChoice, ...]      # the default one first; empty where there is no image to choose
    profiles: tuple[Profile, ...]        # the default one first

    @property
    def asks_profile(self) -> bool:
        return len(self.profiles) > 1

    @property
    def asks_image(self) -> bool:
        return not self.profiles and len(self.images) > 1

    def profile(self, slug: object) -> Profile | None:
        return next((profile for profile in self.profiles if profile.slug == slug), None)

    def image(self, said: object) -> ImageChoice | None:
        return next((choice for choice in self.images if isinstance(said, str) and choice.is_called(said)), None)


@dataclass(frozen=True)
class Offers:
    """read: a user's standing, by the user's id. group_limits: of the configuration, by group."""

    spawner: Spawner
    read: Callable[[int], Awaitable[Standing]]
    named: NamedServers = field(default_factory=NamedServers)
    group_limits: Mapping[str, GroupLimits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises Misconfigured."""
        slugs = {profile.slug for profile in self.spawner.profiles()}
        for group, limits in self.group_limits.items():
            if unknown := sorted(set(limits.profiles or ()) - slugs):
                raise Misconfigured(f"c.JupyterHub.group_limits[{group!r}] names the profile {', '.join(unknown)}, which is "
                                    f"not in profile_list{nearest(unknown[0], slugs)}.")

    def check_properties(self, said: Mapping[str, object]) -> None:
        """Raises BadOption for a group's properties that would do nothing, because the configuration names no such image or
        profile."""
        limits = check_properties(said)
        slugs = [profile.slug for profile in self.spawner.profiles()]
        for slug in limits.profiles or ():
            if slug not in slugs:
                raise BadOption(f"“profiles” names “{slug}”, which no profile of the configuration is{nearest(slug, slugs)}.")
        known = self.spawner.image_choices()
        for choice in limits.named_images():
            if not known:
                raise BadOption("Servers have no image to choose here, so a group cannot have one.")
            if self._known(choice) is None:
                names = [name for each in (*known, *self._of_groups()) for name in (each.name, each.image)]
                raise BadOption(f"The configuration names no image “{choice.image}”, and a group's properties choose among "
                                f"its images{nearest(choice.image, names)}.")

    async def of(self, user: User, server: Server | None = None) -> Offer:
        return await self._of(user.id, user.name, server.user_options if server else {})

    async def _of(self, user_id: int, name: str, options: Mapping[str, object]) -> Offer:
        admin, groups = await self.read(user_id)
        names = tuple(sorted(groups))
        limits = merged(of_group(self.group_limits.get(group), read_properties(groups[group])) for group in names)
        profiles = [profile for profile in self.spawner.profiles()
                    if profile.is_for(names) and (limits.profiles is None or profile.slug in limits.profiles)]
        profiles.sort(key=lambda profile: not profile.default)      # else in their order
        return Offer(Person(name, admin, names, options), limits, self._images(limits), tuple(profiles))

    def _images(self, limits: GroupLimits) -> tuple[ImageChoice, ...]:
        own = self.spawner.image_choices()
        if not own:
            return ()
        images = own if limits.allowed_images is None else tuple(
            choice for said in limits.allowed_images if (choice := self._known(said)))
        first = limits.image and self._known(ImageChoice(limits.image, limits.image, limits.image))
        if first:
            listed = next((choice for choice in images if choice.image == first.image), first)
            images = (listed, *(choice for choice in images if choice.image != first.image))
        elif limits.allowed_images is not None and own[0] in images:
            images = (own[0], *(choice for choice in images if choice is not own[0]))
        return tuple(dict.fromkeys(images))

    def _known(self, said: ImageChoice) -> ImageChoice | None:
        """Return an image of the configuration: what somebody wrote into a group's properties chooses, and adds none."""
        for each in self.spawner.image_choices():
            if each.is_called(said.image):
                return each if said.name == said.image else replace(said, image=each.image)
        configured = self._of_groups()
        return said if said in configured else next((each for each in configured if each.is_called(said.image)), None)

    def _of_groups(self) -> list[ImageChoice]:
        return [each for group in self.group_limits.values() for each in group.named_images()]

    # -- named servers -----------------------------------------------------------------------------------------------
    async def check_name(self, offer: Offer, name: str, *, exists: bool) -> tuple[str, int]:
        """Return the name of a server and how many named ones its owner may have. Raises BadName, BadInput where there are
        no named servers. A server that is there keeps its name, whatever it is."""
        name = validate_servername(name) if exists else validate_new_servername(name)
        if name and not self.named.allowed:
            raise BadInput("Named servers are not enabled.",
                           action="An admin can enable them: c.JupyterHub.allow_named_servers.")
        return name, await self.most_named(offer) if name and not exists else 0

    async def most_named(self, offer: Offer) -> int:
        """Return how many named servers somebody may have, 0 for any number."""
        if offer.limits.max_named_servers is not None:
            return offer.limits.max_named_servers
        limit = self.named.limit
        if isinstance(limit, int):
            return limit
        found = await _ask("c.JupyterHub.named_server_limit_per_user", limit, offer.person)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise _wrong("c.JupyterHub.named_server_limit_per_user", "returns no number")
        return found

    @staticmethod
    def check_display_name(name: str | None) -> str:
        return validate_display_name(name or "")

    # -- what was chosen ---------------------------------------------------------------------------------------------
    async def choose(self, offer: Offer, options: Mapping[str, object] | None, *, image: str = "",
                     ) -> tuple[str, dict[str, object] | None]:
        """Return the image for the row of a server and the options to keep.

        options: None is what was chosen the last time, as far as it is still offered. Raises BadOption, ImageNotAllowed,
        ImageMissing.
        """
        kept: dict[str, object] | None = None
        if options is not None or image:
            kept = check_user_options(options or {}) | ({"image": image} if image else {})
        chosen, profile = await self._start_with(
            offer, offer.person.user_options if kept is None else kept, strict=kept is not None)
        if profile:     # where one lands is told by what is kept
            kept = {**(offer.person.user_options if kept is None else kept), "profile": profile.slug}
        if chosen.image:
            await self.spawner.check_image(chosen.image)
        return chosen.image, kept

    async def start_with(self, server: Server) -> StartWith:
        """Return what a start is made with, by what its owner may have now: of what was chosen, what is not offered any more
        is left out. Raises ImageNotAllowed for somebody who may have no image at all, BadOption."""
        offer = await self._of(server.user_id, server.user_name, server.user_options)
        return (await self._start_with(offer, server.user_options, strict=False))[0]

    async def _start_with(self, offer: Offer, options: Mapping[str, object], *, strict: bool,
                          ) -> tuple[StartWith, Profile | None]:
        profile = self._profile(offer, options.get("profile"), strict=strict)
        start = profile.start if profile else StartWith()
        own = await self._own_words(offer, options)
        asked = own.image or options.get("image")
        image = self._image(offer, start.image, asked, strict=strict or bool(own.image))
        limits = offer.limits
        return StartWith(
            image=image,
            mem_limit_bytes=_first(own.mem_limit_bytes, start.mem_limit_bytes, limits.mem_limit_bytes),
            cpu_limit=_first(own.cpu_limit, start.cpu_limit, limits.cpu_limit),
            environment={**start.environment, **own.environment}), profile

    @staticmethod
    def _profile(offer: Offer, slug: object, *, strict: bool) -> Profile | None:
        profile = offer.profile(slug)
        if profile is None and strict and slug not in (None, ""):
            near = nearest(slug, (each.slug for each in offer.profiles))
            raise BadOption(f"That profile is not offered to you{near}.", action="Choose one of those that are offered.")
        return profile or next(iter(offer.profiles), None)

    def _image(self, offer: Offer, of_profile: str, asked: object, *, strict: bool) -> str:
        """Return the image for the server's row, "" for the spawner's default one."""
        if asked is not None and not isinstance(asked, str):
            if strict:
                raise BadOption("“image” has to be the name of an image.")
            asked = None
        own = self.spawner.image_choices()
        if not own:
            return asked or of_profile
        if of_profile:
            profile_s = next((each.image for each in own if each.is_called(of_profile)), of_profile)
            if asked and strict and asked not in (of_profile, profile_s):
                raise _by_profile(offer)
            return profile_s
        choice = offer.image(asked) if asked else None
        if choice is None:
            if asked and strict and offer.profiles:
                raise _by_profile(offer)
            if (asked and strict) or not offer.images:
                raise ImageNotAllowed(evidence=f"Asked for {str(asked)[:200]!r}.")
            choice = offer.images[0]
        return "" if choice.image == own[0].image else choice.image

    async def _own_words(self, offer: Offer, options: Mapping[str, object]) -> StartWith:
        """Return what the configuration's own function makes of the options. Raises what it raises of our errors."""
        apply: Callable[..., object] | None = self.spawner.apply_user_options
        said = await _ask("c.Spawner.apply_user_options", apply, offer.person, dict(options)) if apply else None
        try:
            return parse_start(said, "c.Spawner.apply_user_options") if said is not None else StartWith()
        except BadOption as error:
            raise _wrong("c.Spawner.apply_user_options", error.sentence) from error

    # -- the form ----------------------------------------------------------------------------------------------------
    async def form_html(self, offer: Offer) -> str:
        """Return the configuration's own fields, which are HTML."""
        form = self.spawner.options_form
        found = await _ask("c.Spawner.options_form", form, offer.person) if callable(form) else form
        return str(found or "")

    async def options_from_form(self, fields: Mapping[str, list[str]]) -> dict[str, object]:
        """Return the options that a form's fields stand for. Raises BadOption."""
        said = self.spawner.options_from_form
        if said == "passthrough":
            return check_user_options(fields)
        if said == "simple":
            return check_user_options({name: values if len(values) != 1 else True if values[0] == "on" else values[0]
                                       for name, values in fields.items()})
        return check_user_options(await _ask("c.Spawner.options_from_form", said, dict(fields)))

    async def missing(self, offer: Offer) -> frozenset[str]:
        """Return those images on offer that are not on this machine; none if that is not known now."""
        images = {choice.image for choice in offer.images} | {each.start.image for each in offer.profiles if each.start.image}
        try:
            return await self.spawner.missing_images(sorted(images)) if len(images) > 1 else frozenset()
        except ApplianceError:
            return frozenset()

    # -- of a server -------------------------------------------------------------------------------------------------
    def default_url(self, server: Server) -> str:
        """Return where the owner lands, as the profile has it; "" as the image."""
        slug = server.user_options.get("profile")
        return next((profile.default_url for profile in self.spawner.profiles() if profile.slug == slug), "")

    def label(self, server: Server) -> str:
        """Return what people see of what they chose, "" where there was no choice."""
        slug, image = server.user_options.get("profile"), server.user_options.get("image")
        images = (each.display_name for each in (*self.spawner.image_choices(), *self._of_groups())
                  if isinstance(image, str) and each.is_called(image))
        profiles = (profile.display_name for profile in self.spawner.profiles() if profile.slug == slug)
        return next(profiles, None) or next(images, "")


def _by_profile(offer: Offer) -> BadOption:
    slugs = ", ".join(profile.slug for profile in offer.profiles)
    return BadOption(f"Here people choose a profile, not an image: {slugs}.", action="Choose one of those that are offered.")


def _first(*values: _Value | None) -> _Value | None:
    return next((value for value in values if value is not None), None)


async def _ask(option: str, function: Callable[..., object], *arguments: object) -> object:
    """Return what an admin's function says; it may block, so it runs in a thread of its own."""
    if inspect.iscoroutinefunction(function):
        raise _wrong(option, "is an async function, and has to be a plain one")
    try:
        return await anyio.to_thread.run_sync(lambda: function(*arguments))
    except ApplianceError:
        raise
    except Exception as error:      # of a function of the configuration, which may raise anything
        raise _wrong(option, f"raised {type(error).__name__}: {error}") from error


def _wrong(option: str, what: str) -> ApplianceError:
    return Misconfigured("Your server cannot be started, because a function of this box's configuration failed. "
                         "Your teacher can fix this.", action=f"Correct {option}: it {what}", evidence=f"{option}: {what}")
