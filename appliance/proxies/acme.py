"""Certificates from an authority that everybody trusts (Let's Encrypt), obtained by a Traefik of their own.

Each attempt is a Traefik beside the one that people use, with one resolver, ended as soon as it has a certificate or has
failed. The other way, two resolvers in the Traefik that people use, was measured: it shows the certificate for trial in
30 of 40 cases even when the real one is there, because both are for the same names and the first one found wins; and it asks
again at every change of a route, which ends at the authority's limit of failures. So here is also told when it is tried
again. The Hub hands the certificate over like any other.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from appliance.errors import ApplianceError, CertificateTrouble
from appliance.proxies import certificates
from appliance.proxies.certificates import Pair
from appliance.proxies.machine import free_port, give_to_group, write_private

PRODUCTION = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
PATIENCE_S = {"http": 180.0, "dns": 1200.0}     # a change in the DNS takes minutes to be seen
TRIAL_PAUSES_S = (60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0)
REAL_PAUSE_S = 3700.0                           # the authority takes five failures an hour for a name
LIMITED_PAUSE_S = 6 * 3600.0
DUE_PART = 1 / 3                                # of a certificate's life that is left when the next one is fetched
DNS_OPTIONS: dict[str, Any] = {}                # beside the provider's name
_LOOK_S = 0.2


@dataclass(frozen=True)
class AcmeSettings:
    names: tuple[str, ...]
    email: str
    challenge: str                # "http" or "dns"
    dns_provider: str
    server: str
    staging_server: str           # "": no trial
    ca_file: str                  # whom to trust as the authority's own server; "": the system's


@dataclass(frozen=True)
class AcmeStatus:
    """What `doctor` and the Hub's pages read, in acme-status.json."""

    stage: str                    # staging, production, valid
    names: tuple[str, ...]
    error: str = ""               # a sentence, with what to do
    evidence: str = ""
    expires_at: str = ""          # of the certificate in use, "" if there is none
    retry_at: str = ""


class Helper(Protocol):
    """The Traefik of one attempt."""

    async def is_alive(self) -> bool: ...

    async def stop(self) -> None:
        """End it and leave nothing behind. Idempotent."""
        ...

    async def output(self) -> str: ...


class Acme:
    """folder: for what the helper reads and writes. obtained: where the certificate goes. reader: group (and user) that a
    helper in a container runs as. start: starts one with a static file."""

    def __init__(self, settings: AcmeSettings, *, folder: Path, status_file: Path, obtained: Pair, reader: int | None,
                 start: Callable[[Path], Awaitable[Helper]], offer: Callable[[str], Awaitable[None]],
                 log: logging.Logger) -> None:
        self._settings, self._folder, self._status_file, self._obtained = settings, folder, status_file, obtained
        self._reader, self._start, self._offer, self._log = reader, start, offer, log
        self._needs_trial = True
        self.status = AcmeStatus("staging", settings.names)

    def is_due(self) -> bool:
        """Say whether a certificate is missing, is for other names, or is near its end."""
        try:
            left = certificates.expires_at(self._obtained.certificate) - datetime.now(UTC)
            life = certificates.life_of(self._obtained.certificate)
            return certificates.names_in(self._obtained.certificate) != set(self._settings.names) or left < DUE_PART * life
        except (OSError, ValueError):
            return True

    def is_missing(self) -> bool:
        return not self._obtained.certificate.exists()

    async def run(self) -> None:
        """Keep a certificate there. Ends when cancelled."""
        failures = 0
        while True:
            if not self.is_due():
                failures, self._needs_trial = 0, False    # what worked once is renewed without a trial
                self._say("valid")
                await asyncio.sleep(min(60.0, REAL_PAUSE_S))
                continue
            stage = "staging" if self._needs_trial and self._settings.staging_server else "production"
            self._say(stage)
            try:
                await self._attempt(stage)
            except CertificateTrouble as error:
                pause_s = TRIAL_PAUSES_S[min(failures, len(TRIAL_PAUSES_S) - 1)] if stage == "staging" else REAL_PAUSE_S
                pause_s = max(pause_s, LIMITED_PAUSE_S) if "rateLimited" in error.evidence else pause_s
                failures, self._needs_trial = failures + 1, True
                retry_at = datetime.now(UTC) + timedelta(seconds=pause_s)
                self._say(stage, error, retry_at)
                self._log.error("%s %s The next attempt is at %s. The authority said: %s", error.sentence, error.action,
                                f"{retry_at:%H:%M} UTC", error.evidence)
                await asyncio.sleep(pause_s)
            else:
                failures = 0
                if stage == "staging":
                    self._needs_trial = False
                    self._log.info("The trial has worked; now the certificate itself.")
                else:
                    self._log.info("There is a certificate from the authority for %s.", ", ".join(self._settings.names))

    def trouble(self) -> ApplianceError | None:
        status = self.status
        return CertificateTrouble(status.error, action="", evidence=status.evidence) if status.error else None

    # -- one attempt ---------------------------------------------------------------------------------------------------
    async def _attempt(self, stage: str) -> None:
        """Raises CertificateTrouble."""
        helper, port, patience_s = None, free_port(), PATIENCE_S[self._settings.challenge]
        try:
            static = self._write(stage, port)
            if self._settings.challenge == "http":
                await self._offer(f"http://127.0.0.1:{port}")
            helper = await self._start(static)
            async with asyncio.timeout(patience_s):
                while not self._take(stage):
                    said = self._failure(stage)
                    if said:
                        raise explain(said, self._settings)
                    if not await helper.is_alive():
                        raise CertificateTrouble("The Traefik that fetches the certificate has ended.",
                                                 evidence=await helper.output())
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise CertificateTrouble(f"The authority has not answered within {patience_s:.0f} seconds.") from None
        except OSError as error:
            raise CertificateTrouble("What fetches the certificate cannot be written.", evidence=str(error)) from error
        except CertificateTrouble:
            raise
        except ApplianceError as error:
            raise CertificateTrouble(error.sentence, action=error.action, evidence=error.evidence) from error
        finally:
            if helper is not None:
                await helper.stop()
            await self._offer("")

    def _write(self, stage: str, port: int) -> Path:
        """Write what the helper reads; of an earlier attempt only the account stays."""
        settings, folder = self._settings, self._folder
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._reader is not None:   # it writes here: its account's key, its log
            os.chown(folder, self._reader, self._reader, follow_symlinks=False)
        server = settings.server if stage == "production" else settings.staging_server
        resolver: dict[str, Any] = {
            "email": settings.email, "caServer": server, "keyType": "EC256", "storage": str(folder / f"{stage}.json")}
        if settings.challenge == "dns":
            resolver["dnsChallenge"] = {"provider": settings.dns_provider, **DNS_OPTIONS}
        else:
            resolver["httpChallenge"] = {"entryPoint": "challenge"}
        if settings.ca_file:
            self._put("ca.crt", Path(settings.ca_file).read_text())
            resolver |= {"caCertificates": [str(folder / "ca.crt")], "caSystemCertPool": True}
        self._keep_account(stage)
        (folder / f"{stage}.log").unlink(missing_ok=True)
        self._put("wanted.yml", json.dumps({"tls": {"stores": {"default": {"defaultGeneratedCert": {
            "resolver": stage, "domain": {"main": settings.names[0], "sans": list(settings.names[1:])}}}}}}))
        return self._put(f"{stage}.yml", json.dumps({
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {"challenge": {"address": f"127.0.0.1:{port}", "http": {"aliasHeadersStrategy": "delete"}}},
            "providers": {"file": {"filename": str(folder / "wanted.yml"), "watch": False}},
            "certificatesResolvers": {stage: {"acme": resolver}},
            "log": {"level": "INFO", "format": "json", "filePath": str(folder / f"{stage}.log")},
        }, indent=1))

    def _put(self, name: str, text: str) -> Path:
        path = self._folder / name
        write_private(path, text)
        if self._reader is not None:
            give_to_group(path, self._reader)
        return path

    def _keep_account(self, stage: str) -> None:
        path = self._folder / f"{stage}.json"
        kept: dict[str, Any] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            account = json.loads(path.read_text())[stage]["Account"]
            # Traefik takes an account without an address for none; it is not sent again
            account["Email"] = account["Email"] or f"nobody@{self._settings.names[0]}"
            kept = {stage: {"Account": account, "Certificates": None}}
        path.unlink(missing_ok=True)
        write_private(path, json.dumps(kept) if kept else "")
        if self._reader is not None:    # Traefik refuses a storage that anybody else may read
            os.chown(path, self._reader, self._reader, follow_symlinks=False)

    def _take(self, stage: str) -> bool:
        """Say whether the certificate is there; the real one is put where it is shown from."""
        try:
            found = json.loads((self._folder / f"{stage}.json").read_text())[stage]["Certificates"][0]
            certificate, key = (base64.b64decode(found[part]).decode() for part in ("certificate", "key"))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return False
        if stage == "production":
            self._obtained.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._obtained.key, key)
            write_private(self._obtained.certificate, certificate)
        return True

    def _failure(self, stage: str) -> str:
        """Return the authority's or lego's words, "" while there are none."""
        with suppress(OSError):
            for line in (self._folder / f"{stage}.log").read_text(errors="replace").splitlines():
                with suppress(ValueError):
                    said = json.loads(line)
                    if str(said.get("message", "")).startswith("Unable to obtain ACME certificate"):
                        return str(said.get("error", "")) or str(said["message"])
        return ""

    # -- what is said of it --------------------------------------------------------------------------------------------
    def _say(self, stage: str, error: CertificateTrouble | None = None, retry_at: datetime | None = None) -> None:
        before, expires_at = self.status, ""
        with suppress(OSError, ValueError):
            expires_at = certificates.expires_at(self._obtained.certificate).isoformat()
        if error is not None:
            self.status = AcmeStatus(stage, self._settings.names, f"{error.sentence} {error.action}".strip(), error.evidence,
                                     expires_at, retry_at.isoformat() if retry_at else "")
        else:  # an attempt under way takes nothing back; success does
            still = before.error if stage != "valid" else ""
            self.status = AcmeStatus(stage, self._settings.names, still, before.evidence if still else "", expires_at)
        if self.status != before or not self._status_file.exists():
            with suppress(OSError):
                write_private(self._status_file, json.dumps(asdict(self.status), indent=1))


_CAUSES: Sequence[tuple[tuple[str, ...], str, str]] = (
    (("acme:error:rateLimited",), "The authority has had too many requests for {names}.",
     "Nothing needs to be done: it is asked again when it allows that."),
    (("acme:error:caa",), "The DNS of {names} forbids this authority (a CAA record).",
     "Allow it in the CAA record, or choose another with c.TraefikProxy.acme_server."),
    (("unrecognized DNS provider",), "There is no DNS provider called {provider}.",
     "Take a name of https://go-acme.github.io/lego/dns/ for c.TraefikProxy.acme_dns_provider."),
    (("credentials information are missing",), "The DNS provider {provider} wants variables that are not there.",
     "Set them in Traefik's environment (acme.env); the authority's words name them."),
    (("acme:error:dns", "NXDOMAIN", "no valid A records"), "A name of {names} is not known to the DNS.",
     "Let the name lead to this box's public address, or use the DNS challenge."),
    (("acme:error:connection",), "The authority cannot reach {names} on port 80.",
     "Let port 80 of that name lead to this box (router, firewall), or use the DNS challenge."),
    (("acme:error:unauthorized", "acme:error:incorrectResponse"), "Something else answers for {names}.",
     "Let each name lead to this box alone, with nothing before it that answers on port 80 itself."),
    (("propagation", "time limit exceeded"), "The DNS record that proves the ownership of {names} is not seen.",
     "Check that the provider serves these names, and that its variables are right."),
    (("acme:error:rejectedIdentifier", "acme:error:malformed"), "The authority does not certify {names}.",
     "Only public names can have such a certificate; for others c.JupyterHub.tls = 'selfsigned' serves."),
    (("unknown authority",), "The authority's server shows a certificate that is not trusted here.",
     "Name the authority of the network's proxy, or of your own server, in c.TraefikProxy.acme_ca_file."),
    (("unable to communicate", "dial tcp", "i/o timeout"), "The authority's server cannot be reached from this box.",
     "Let the box reach it (outgoing port 443), or use certificate files."),
)


def explain(said: str, settings: AcmeSettings) -> CertificateTrouble:
    """Return the authority's words as a sentence and what to do."""
    for signs, sentence, action in _CAUSES:
        if any(sign in said for sign in signs):
            concerned = [name for name in settings.names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", said)]
            names = ", ".join(concerned or settings.names)
            return CertificateTrouble(
                sentence.format(names=names, provider=settings.dns_provider), action=action, evidence=said)
    return CertificateTrouble(f"No certificate could be had for {', '.join(settings.names)}.", evidence=said)
