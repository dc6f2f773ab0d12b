"""/hub/metrics, for Prometheus: by the token of the box, by an API token with the scope read:metrics, or as an admin who is
signed in."""

from __future__ import annotations

from starlette.responses import Response

from appliance.errors import NotAdmin, NotSignedIn
from appliance.hub.metrics import CONTENT_TYPE
from appliance.web.visit import Visit, sign_in_by_token


async def metrics(visit: Visit) -> Response:
    visit.api = not visit.navigates     # a program that may not read them is told so, and led to no page
    await _check_access(visit)
    state = await visit.hub.census.take()
    return Response(visit.hub.metrics.render(state), headers={"Content-Type": CONTENT_TYPE})


async def _check_access(visit: Visit) -> None:
    """Raises Refused, NotSignedIn, NotAdmin."""
    access = visit.hub.metrics_access
    if not access.authenticate:
        return
    scheme, _, token = visit.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("token", "bearer"):
        if access.fits(token[:500]):
            return
        await sign_in_by_token(visit)
    if visit.requester is None:
        raise NotSignedIn("Metrics are for Prometheus and for admins.",
                          action="Send the token of c.JupyterHub.metrics_token_file, or an admin's API token.")
    if not visit.requester.rights.has("read:metrics"):
        raise NotAdmin()
