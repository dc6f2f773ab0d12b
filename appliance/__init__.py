"""Classroom box: the extension API. What is not named here is not public.

Names are imported when they are asked for (PEP 562): `appliance.box` runs on a box's own Python, where none of the
Hub's libraries is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.domain.offers import ImageChoice, Profile
    from appliance.domain.route import Route, ServiceRoute
    from appliance.errors import ApplianceError
    from appliance.ports import (
        ActualServer,
        ActualState,
        Authenticator,
        Home,
        Homes,
        HomeUsage,
        Identity,
        ImageOptions,
        LoginRequest,
        PasswordStore,
        Proxy,
        ServerHandle,
        ServerSpec,
        Spawner,
        Usage,
    )

__version__ = "0.2.0"

__all__ = [
    "ActualServer", "ActualState", "ApplianceError", "Authenticator", "Home", "HomeUsage", "Homes", "Identity", "ImageChoice",
    "ImageOptions", "LoginRequest", "PasswordStore", "Profile", "Proxy", "Route", "ServerHandle", "ServerSpec", "ServiceRoute",
    "Spawner", "Usage", "__version__",
]

# all others: appliance.ports
_ELSEWHERE = {"Route": "appliance.domain.route", "ServiceRoute": "appliance.domain.route",
              "ImageChoice": "appliance.domain.offers", "Profile": "appliance.domain.offers",
              "ApplianceError": "appliance.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ELSEWHERE.get(name, "appliance.ports")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
