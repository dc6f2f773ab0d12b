"""Addresses of the box: where the Hub and the users' servers stand under one base URL, and which `next=` may be followed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from appliance.domain.names import quote_name
from appliance.errors import BadNext

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


@dataclass(frozen=True)
class Urls:
    """Paths under `base`, which begins and ends with one slash."""

    base: str = "/"

    @property
    def hub(self) -> str:
        """"/hub/", where the Hub's pages and its cookies live."""
        return f"{self.base}hub/"

    @property
    def api(self) -> str:
        return f"{self.base}hub/api/"

    @property
    def users(self) -> str:
        return f"{self.base}user/"

    def service(self, name: str) -> str:
        """"/services/culler/": such a name needs no quoting."""
        return f"{self.base}services/{name}/"

    def server(self, user_name: str, server_name: str = "") -> str:
        """"/user/alice/" or "/user/alice/lab2/", percent-encoded: what a browser sends and a cookie's path is."""
        path = f"{self.users}{quote_name(user_name)}/"
        return f"{path}{quote_name(server_name)}/" if server_name else path

    def server_decoded(self, user_name: str, server_name: str = "") -> str:
        """The same with letters decoded: what Traefik's matchers compare with."""
        path = f"{self.users}{user_name}/"
        return f"{path}{server_name}/" if server_name else path

    def safe_next(self, target: str | None) -> str | None:
        """Return `target` if it is a path of this box, None if it is empty.

        A browser drops tabs and line breaks, reads a backslash as a slash and decodes nothing else before it decides
        whose site an address is; a redirecting server may decode once more. So the path must begin with exactly one
        slash under every one of these readings. Raises BadNext otherwise.
        """
        if not target:
            return None
        if len(target) > 4096 or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in target):
            raise BadNext()
        reading = target
        for _ in range(6):
            path = reading.split("?", 1)[0].split("#", 1)[0]
            if not reading.startswith("/") or reading[1:2] in ("/", "\\") or "\\" in path or "//" in path:
                raise BadNext()
            if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in path) and reading is target:
                raise BadNext()
            if any(part in (".", "..") for part in path.split("/")):
                raise BadNext()
            decoded = unquote(path)
            if any(ord(char) < 0x20 for char in decoded):
                raise BadNext()
            if decoded == path:
                break
            reading = decoded
        else:
            raise BadNext()
        parts = urlsplit(target)
        if parts.scheme or parts.netloc or not parts.path.startswith(self.base):
            raise BadNext()
        return target


def origin_of(scheme: str, host: str) -> str:
    """Return "https://box.school:8000" of a request's scheme and Host header, or "" where Host is not one."""
    if scheme not in ("http", "https") or not _HOST.fullmatch(host):
        return ""
    host = host.lower()
    default = ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host.removesuffix(default)}"
