"""Templates: one frozen dataclass a page, and what every page knows besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from appliance.domain.limits import format_bytes
from appliance.domain.service import ServiceDefinition
from appliance.domain.user import User
from appliance.web import static
from appliance.web.words import ago, clock

if TYPE_CHECKING:
    from appliance.web.visit import Visit

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True, undefined=StrictUndefined, auto_reload=False, trim_blocks=True, lstrip_blocks=True,
)
_templates.filters |= {"ago": ago, "clock": clock, "bytes": format_bytes}


class Page:
    """What a template gets as `page`: a frozen dataclass that derives from this."""


@dataclass(frozen=True)
class Site:
    """What a template gets as `site`."""

    hub: str                          # "/hub/"
    user: User | None
    xsrf: Callable[[], str]           # only a page with a form sets the cookie that goes with it
    version: str
    now: datetime
    static: Callable[[str], str]      # address of a static file, with its content's hash
    services: bool                    # there is one to show
    dashboard: bool                   # the visitor may open it


def render(visit: Visit, template: str, page: Page, status: int = 200) -> Response:
    site = Site(
        hub=visit.urls.hub, user=visit.user, xsrf=visit.xsrf, version=visit.hub.version, now=datetime.now(UTC),
        static=lambda name: static.url(visit.urls, name), services=bool(to_show(visit)),
        dashboard=visit.requester is not None and visit.requester.rights.has("admin-ui"),
    )
    return HTMLResponse(_templates.get_template(template).render(page=page, site=site), status)


def to_show(visit: Visit) -> Sequence[ServiceDefinition]:
    """Return the services that the visitor sees on a page: those that they may open, all of them who may change them."""
    if visit.requester is None:
        return ()
    rights, services = visit.requester.rights, visit.hub.services
    return services.all() if rights.has("admin:services") else services.visible_to(rights)
