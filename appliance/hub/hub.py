"""The Hub as the web sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.capability import derive_key
from appliance.domain.urls import Urls
from appliance.errors import ApplianceError
from appliance.hub.accounts import Accounts
from appliance.hub.activity import Activity
from appliance.hub.census import Census
from appliance.hub.changes import Changes
from appliance.hub.control import Control
from appliance.hub.directory import Directory
from appliance.hub.metrics import Metrics, MetricsAccess
from appliance.hub.oauth import OAuth
from appliance.hub.permissions import Permissions
from appliance.hub.reconciler import Reconciler
from appliance.hub.servers import Servers
from appliance.hub.services import Services
from appliance.hub.sessions import Sessions
from appliance.hub.shares import Shares
from appliance.hub.tokens import Tokens


@dataclass(frozen=True)
class Hub:
    urls: Urls
    version: str
    public_url: str        # "https://box.school", "" if not configured
    after_sign_in: str     # path below the Hub's, or of the box if it begins with a slash
    proxy_secret: str      # requests that carry it come through our proxy
    secret: bytes          # of the installation; every key is derived from it
    accounts: Accounts
    sessions: Sessions
    servers: Servers
    events: Changes
    reconciler: Reconciler
    metrics: Metrics
    census: Census
    metrics_access: MetricsAccess
    permissions: Permissions
    tokens: Tokens
    directory: Directory
    activity: Activity
    control: Control
    oauth: OAuth
    shares: Shares
    services: Services
    authority_file: Path | None = None                  # the root of the box's own authority, for browsers to trust
    proxy_trouble: Callable[[], ApplianceError | None] = lambda: None

    def key(self, purpose: str) -> bytes:
        """Return a 32-byte key for one purpose."""
        return derive_key(self.secret, purpose)

    @property
    def ready(self) -> bool:
        """Say whether it is known by now if servers can be started."""
        return self.reconciler.ready

    def problems(self) -> list[ApplianceError]:
        """Return what keeps servers from being started now."""
        return [self.reconciler.problem] if self.reconciler.problem is not None else []

    def concerns(self) -> list[ApplianceError]:
        """Return what an admin should mend although everybody can work."""
        found = self.proxy_trouble()
        return [*([found] if found is not None else []), *self.services.concerns()]
