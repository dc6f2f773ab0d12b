"""What our own proxy asks the Hub."""

from __future__ import annotations

from starlette.responses import Response

from appliance.errors import Refused
from appliance.web.visit import Visit


async def authorize(visit: Visit) -> Response:
    """May this script's API token enter this server, and with which header instead?

    Nobody enters another's server here, not even an admin, unless it is shared with them. The token itself never reaches a
    container.
    """
    server = await visit.hub.servers.by_id(visit.param("server_id")[:64])
    requester = visit.requester
    if server is None or requester is None or visit.session or not server.ready \
            or not await visit.hub.permissions.may_enter(requester, server):
        raise Refused("This API token does not open that server.")
    injected = visit.hub.servers.injected_authorization(server)
    # without the header in the answer, the proxy takes the one in the request away
    return Response(status_code=200, headers={"Authorization": injected} if injected else {})
