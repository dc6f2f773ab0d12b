"""Which certificate browsers are shown: made here, given as files, or obtained; kept up to date while the Hub runs."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

from appliance.errors import Misconfigured
from appliance.proxies import certificates
from appliance.proxies.certificates import Pair
from appliance.proxies.machine import check_certificate

LOOK_S = 3600.0       # between two looks at names and dates of what was made here


class ServedCertificate:
    """The pair of files that Traefik reads: always a copy, so that no half-replaced pair ever reaches it.

    made: folder of the box's own authority. names: empty means what this machine is called. obtained: the pair from a
    certificate authority, used instead of what is made here once it is there. reader: group that Traefik runs as, if it
    runs as somebody else.
    """

    def __init__(self, *, made: Path, copies: Path, given: Pair | None, obtained: Pair | None, names: Sequence[str],
                 public_host: str, reader: int | None, log: logging.Logger) -> None:
        self._made, self._copies, self._given, self._obtained = made, copies, given, obtained
        self._names, self._public_host = tuple(names), public_host
        self._reader, self._log = reader, log
        self._shown: Pair | None = None
        self._seen: tuple[int, ...] = ()
        self._looked_at = 0.0
        self._refused = ""

    @property
    def names(self) -> tuple[str, ...]:
        return self._names or certificates.own_names(self._public_host)

    def ensure(self) -> Pair:
        """Return what to show. Raises Misconfigured, OSError."""
        source = self._source()
        check_certificate(str(source.certificate), str(source.key))
        self._looked_at, self._seen = monotonic(), _times(source)
        self._shown = certificates.copy_for_proxy(source, self._copies, self._reader)
        return self._shown

    def look(self) -> Pair | None:
        """Return another pair if there is a new one that can be used; the old one is shown until then."""
        watched = self._given or self._obtained or Pair(self._made / "box.crt", self._made / "box.key")
        due = self._given is None and monotonic() > self._looked_at + LOOK_S
        if not due and _times(watched) in (self._seen, ()):
            return None
        before, seen = self._shown, _times(watched)
        try:
            pair = self.ensure()
        except (Misconfigured, OSError, ssl.SSLError) as error:
            # half replaced, perhaps; said once
            self._shown, self._looked_at = before, monotonic()
            if self._refused != str(error):
                self._refused = str(error)
                self._log.error("%s The one before is shown until that is right.", error)
            return None
        self._seen, self._refused = seen, ""
        if pair == before:
            return None
        self._log.info("The certificate was replaced; open connections go on.")
        return pair

    def _source(self) -> Pair:
        if self._given is not None:
            return self._given
        if self._obtained is not None and self._obtained.certificate.exists():
            return self._obtained
        pair, said = certificates.ensure_leaf(self._made, self.names)
        if self._obtained is not None:
            self._log.warning("Until there is a certificate from the authority, browsers are shown one that they do not trust.")
            return pair
        for sentence in said:
            self._log.warning(sentence)
        return pair


def _times(pair: Pair) -> tuple[int, ...]:
    times = []
    for path in (pair.certificate, pair.key):
        with suppress(OSError):
            status = path.stat()
            times += [status.st_mtime_ns, status.st_ino]
    return tuple(times)
