"""What a route is: who may reach which server, under which path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """Everything the proxy needs to let browsers in to one start of one server."""

    server_id: str
    start_no: int
    prefix: str                       # "/user/josé/": letters decoded, begins and ends with a slash
    url: str                          # "http://10.77.0.7:8888", no trailing slash
    capabilities: tuple[str, ...]     # cookie values, sorted; none: only API tokens may enter
    origins: tuple[str, ...]          # public origins that may send an Origin header, sorted
    injected_token: str | None        # added as `Authorization: token …`; None: the image must not get one
    strip_prefix: bool = False        # the app knows nothing of its prefix
    below: tuple[str, ...] = ()       # prefixes below this one that are other servers', which may not run now; sorted


@dataclass(frozen=True)
class ServiceRoute:
    """Everything the proxy needs to lead everybody to a service, which finds out by itself who they are."""

    name: str
    prefix: str                       # "/services/culler/"
    url: str                          # "http://127.0.0.1:9999", no trailing slash
