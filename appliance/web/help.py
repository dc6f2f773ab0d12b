"""How a device is told to trust a box that has an authority of its own. For everybody, over plain HTTP too.

Over HTTP nothing is lost: whoever could replace the certificate on the way could also stand between box and browser behind
the warning that has to be clicked away to read this page over HTTPS, and clicking that away is a bad habit. What tells the
right certificate from another is its fingerprint, heard from the teacher.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass

from starlette.responses import Response

from appliance.errors import NotFound
from appliance.web.views import Page, render
from appliance.web.visit import Visit


@dataclass(frozen=True)
class HelpPage(Page):
    fingerprint: tuple[str, ...]     # of the root, SHA-256, in four lines as browsers show it
    certificate_url: str
    plain: bool                      # read over HTTP


async def show_help(visit: Visit) -> Response:
    der = ssl.PEM_cert_to_DER_cert(_certificate(visit))
    digits = hashlib.sha256(der).hexdigest().upper()
    lines = tuple(" ".join(digits[at:at + 2] for at in range(start, start + 16, 2)) for start in range(0, 64, 16))
    return render(visit, "help.html", HelpPage(
        lines, visit.hub_url("help/ca.crt"), plain=visit.request_origin.startswith("http://")))


async def certificate(visit: Visit) -> Response:
    # no attachment: Firefox and iOS offer to trust it by its type
    return Response(_certificate(visit), media_type="application/x-x509-ca-cert", headers={"Cache-Control": "no-cache"})


def _certificate(visit: Visit) -> str:
    """Raises NotFound where this box's certificate is one that browsers trust anyway."""
    file = visit.hub.authority_file
    if file is None:
        raise NotFound()
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        raise NotFound("This box has no certificate of its own yet.") from None
