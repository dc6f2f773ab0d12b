"""Classroom box: the extension API. What is not named here is not public."""

from appliance.domain.route import Route
from appliance.errors import ApplianceError
from appliance.ports import (
    ActualServer,
    ActualState,
    Authenticator,
    Home,
    Homes,
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

__version__ = "0.1.0"

__all__ = [
    "ActualServer", "ActualState", "ApplianceError", "Authenticator", "Home", "Homes", "Identity", "ImageOptions",
    "LoginRequest", "PasswordStore", "Proxy", "Route", "ServerHandle", "ServerSpec", "Spawner", "Usage", "__version__",
]
