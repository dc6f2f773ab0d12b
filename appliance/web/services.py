"""Services as people meet them: the list of those they may open, and what stands at /services/NAME/ while one is away."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from starlette.responses import Response

from appliance.domain.service import ServiceDefinition, ServicePhase, ServiceState, validate_servicename
from appliance.errors import BadName, BadNext, NotFound, ServiceFailed
from appliance.web.errors import RETRY_AFTER_S, error_json, show_error, status_of
from appliance.web.views import Page, render, to_show
from appliance.web.visit import Visit, redirect

STATES = {
    ServicePhase.CLIENT: "Runs elsewhere", ServicePhase.WAITING: "Waits for Docker", ServicePhase.STARTING: "Starting",
    ServicePhase.RUNNING: "Running", ServicePhase.AWAY: "Does not answer", ServicePhase.RESTARTING: "Starting again",
    ServicePhase.FAILED: "Failed",
}
# the colours that the states of servers have
_SHOWN = {
    ServicePhase.CLIENT: "stopped", ServicePhase.WAITING: "queued", ServicePhase.STARTING: "starting",
    ServicePhase.RUNNING: "ready", ServicePhase.AWAY: "failed", ServicePhase.RESTARTING: "starting",
    ServicePhase.FAILED: "failed",
}


@dataclass(frozen=True)
class Line:
    name: str
    url: str                    # "" for one without an address
    state: str
    shown: str
    since: datetime
    said: str = ""
    kind: str = ""              # what follows is for admins
    restarts: int = 0
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServicesPage(Page):
    lines: list[Line]
    for_admin: bool


async def show_services(visit: Visit) -> Response:
    """/hub/services: an admin sees all and how they are, others those that they may open."""
    manages = visit.requester is not None and visit.requester.rights.has("admin:services")
    return render(visit, "services.html", ServicesPage([_line(visit, each, manages) for each in to_show(visit)], manages))


def _line(visit: Visit, service: ServiceDefinition, for_admin: bool) -> Line:
    state = visit.hub.services.state(service.name)
    line = Line(service.name, visit.hub.services.prefix(service), STATES[state.phase], _SHOWN[state.phase], state.since)
    if not for_admin:
        return line
    kind = "in a container" if service.container else "run by the Hub" if service.managed else "runs elsewhere"
    return Line(line.name, line.url, line.state, line.shown, line.since, state.said, kind, state.restarts, state.lines)


# -- at its own address ------------------------------------------------------------------------------------------------
async def catch_all(visit: Visit) -> Response:
    """/services/…, where the proxy leads nobody elsewhere: a service that is away, or none at all."""
    path, _, query = visit.here.partition("?")
    name, slash, _ = path.removeprefix(f"{visit.urls.base}services/").partition("/")
    service = _named(visit, name)
    if service is None:
        return _refuse(visit, NotFound("There is no such service."))
    if not slash:
        return redirect(visit.urls.service(service.name) + (f"?{query}" if query else ""))
    return _away(visit, service, visit.here)


async def proxy_error(visit: Visit) -> Response:
    """/hub/error/service/NAME/502?url=…, which the proxy shows instead of a service that does not answer."""
    service = _named(visit, visit.param("name"))
    if service is None or visit.param("status") not in ("502", "504"):
        raise NotFound()
    prefix = visit.urls.service(service.name)
    try:
        parts = urlsplit(visit.request.query_params.get("url", ""))
        target = visit.urls.safe_next(f"{parts.path}?{parts.query}" if parts.query else parts.path) or prefix
    except (ValueError, BadNext):
        target = prefix
    # the proxy answers with the status it asks about, whatever this one is, so that is the one to show
    return _away(visit, service, target if target.startswith(prefix) else prefix, int(visit.param("status")))


def _named(visit: Visit, name: str) -> ServiceDefinition | None:
    try:
        service = visit.hub.services.get(validate_servicename(name))
    except BadName:
        return None
    return service if service is not None and service.has_address else None


def _away(visit: Visit, service: ServiceDefinition, target: str, status: int = 0) -> Response:
    return _refuse(visit, ServiceFailed(_why(service, visit.hub.services.state(service.name))), target, status)


def _why(service: ServiceDefinition, state: ServiceState) -> str:
    if state.phase in (ServicePhase.STARTING, ServicePhase.RESTARTING, ServicePhase.WAITING):
        return f"The service {service.name} is starting. Please try again in a moment."
    if state.phase is ServicePhase.FAILED:
        return f"The service {service.name} does not run. Your teacher can see why on the page about services."
    return f"The service {service.name} does not answer right now. Please try again in a moment."


def _refuse(visit: Visit, error: ServiceFailed | NotFound, target: str = "", status: int = 0) -> Response:
    if visit.navigates:
        response = show_error(visit, error, status=status or None, button="Try again" if target else "", button_url=target)
    else:
        response = error_json(status or status_of(error), error.sentence)
    if target:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
