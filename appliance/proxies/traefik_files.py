"""What Traefik reads: one static file, one fixed dynamic file, one dynamic file per server and per service.

All are JSON, which is YAML too. `traefik/` in the repository shows each with comments.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.domain.capability import cookie_name
from appliance.domain.route import Route, ServiceRoute
from appliance.errors import BadName

API_USER = "hub"
# Sent to the Hub beside X-Forwarded-*, so that it knows these were set by the proxy and not by a client.
PROXY_HEADER = "X-Appliance-Proxy"
# What a container may not say about the origin that it shares with the Hub's pages.
REMOVED_RESPONSE_HEADERS = (
    "Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security",
    "NEL", "Report-To", "Reporting-Endpoints", "Alt-Svc",
)
# Already compressed, or a stream that has to arrive at once.
NOT_COMPRESSED = (
    "text/event-stream", "image/png", "image/jpeg", "image/gif", "image/webp", "font/woff", "font/woff2",
    "audio/mpeg", "video/mp4", "video/webm", "application/zip", "application/gzip", "application/pdf",
)

# Of TLS 1.2 what Mozilla calls intermediate: forward secrecy and authenticated encryption. Those of 1.3 are all fine.
CIPHERS = tuple(
    f"TLS_ECDHE_{key}_WITH_{cipher}" for cipher in ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")
    for key in ("ECDSA", "RSA"))
CURVES = ("X25519MLKEM768", "X25519", "CurveP256", "CurveP384")  # the first against whoever keeps it for quantum computers

_SERVER_ID = re.compile(r"[a-z0-9]{1,64}")
_CAPABILITY = re.compile(r"[A-Za-z0-9._-]{1,256}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]{1,300}")
_URL = re.compile(r"http://[A-Za-z0-9.:\[\]-]{1,300}")
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVICE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,300}")
SERVICE_FILE = "service-"     # begins the names of their files; a server's id holds no "-"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")

Config = dict[str, Any]


@dataclass(frozen=True)
class Edge:
    """Everything the static and the fixed file depend on."""

    folder: Path              # holds all of Traefik's files; absolute
    base_url: str             # begins and ends with a slash
    hub_url: str
    hub_secret: str
    bind_ip: str
    bind_port: int
    api_port: int             # on the loopback address
    api_password: str
    tls: bool = False
    certificate: str = ""     # under TLS a file, as is the next; another certificate has another name
    key: str = ""
    hsts_seconds: int = 0     # 0: say nothing
    plain_port: int = 80
    redirect: bool = False    # that port leads to HTTPS
    plain_help: bool = False  # how to trust this box is told there as well
    challenge_url: str = ""   # who answers a certificate authority just now
    separate: bool = False    # Traefik runs as somebody else, who writes nothing but below `logs`
    holding_url: str = ""     # who answers for a Hub that is away

    @property
    def routes(self) -> Path:
        return self.folder / "routes"

    @property
    def logs(self) -> Path:
        return self.folder / "logs" if self.separate else self.folder

    @property
    def to_hub(self) -> list[str]:
        """The middlewares of every way to the Hub."""
        return [*(["holding"] if self.holding_url else []), "to-hub", "compress"]


def listen_address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def dump(config: Config) -> str:
    """Return a dynamic or static file's text. Traefik runs a file through Go's templates first: none may start here."""
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if "{{" in text:
        raise BadName("A route cannot contain “{{”.")
    return text


def static_config(edge: Edge) -> Config:
    web: Config = {
        "address": listen_address(edge.bind_ip, edge.bind_port),
        # forwardedHeaders: nobody is trusted, so what a client says of X-Forwarded-* is replaced
        "http": {
            # X_Appliance_Proxy and the like are other names of X-Appliance-Proxy for some apps
            "aliasHeadersStrategy": "delete",
            "encodeQuerySemicolons": True,  # else Traefik makes them "&"
            "encodedCharacters": {"allowEncodedNullCharacter": False},
        },
        # a read timeout covers the whole body and would cut long uploads
        # meanwhile nobody new is let in, and an open websocket never ends by itself
        "transport": {"respondingTimeouts": {"readTimeout": "0s"}, "lifeCycle": {"graceTimeOut": "500ms"}},
    }
    api = {"address": f"127.0.0.1:{edge.api_port}", "http": {"aliasHeadersStrategy": "delete"}}
    entry_points: Config = {"web": web, "api": api}
    if edge.redirect:
        entry_points["plain"] = {
            "address": listen_address(edge.bind_ip, edge.plain_port), "http": {"aliasHeadersStrategy": "delete"}}
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "entryPoints": entry_points,
        "providers": {
            "providersThrottleDuration": "10ms",  # Traefik's default of 2 s is a route's latency
            "file": {"directory": str(edge.routes), "watch": True},
        },
        "api": {"insecure": False, "dashboard": False},
        "ping": {"entryPoint": "api"},  # for a container's healthcheck; says OK and nothing else
        "metrics": {"prometheus": {"manualRouting": True, "addEntryPointsLabels": False, "addServicesLabels": True}},
        # DEBUG prints every injected token
        "log": {
            "level": "INFO", "format": "common", "noColor": True,
            "filePath": str(edge.logs / "traefik.log"), "maxSize": 10, "maxBackups": 1,
        },
        "accessLog": {
            "filePath": str(edge.logs / "access.log"), "format": "json", "bufferingSize": 100,
            "fields": {
                "defaultMode": "keep", "headers": {"defaultMode": "drop"},
                "queryParameters": {"defaultMode": "drop"},
                # of a URL's user part, and what is said twice
                "names": dict.fromkeys(("ClientUsername", "RequestLine", "StartLocal", "ClientAddr"), "drop"),
            },
        },
    }


def fixed_config(edge: Edge) -> Config:
    """Return what does not depend on servers: the Hub behind everything, the API, and the parts all servers share."""
    digest = b64encode(hashlib.sha1(edge.api_password.encode(), usedforsecurity=False).digest()).decode()
    config: Config = {
        "http": {
            "routers": {
                "hub": {
                    "entryPoints": ["web"], "rule": "PathPrefix(`/`)", "priority": 1,
                    "service": "hub", "middlewares": ["hsts", *edge.to_hub], **_tls(edge),
                },
                # old clients say a token in the path, which no log may hold
                "hub-unlogged": {
                    "entryPoints": ["web"], "rule": f"PathPrefix(`{edge.base_url}hub/api/authorizations/`)", "priority": 2,
                    "service": "hub", "middlewares": ["hsts", *edge.to_hub], "observability": {"accessLogs": False},
                    **_tls(edge),
                },
                "api": {
                    "entryPoints": ["api"], "rule": "PathPrefix(`/api`)", "priority": 1,
                    "service": "api@internal", "middlewares": ["api-password"],
                },
                "metrics": {
                    "entryPoints": ["api"], "rule": "Path(`/metrics`)", "priority": 2,
                    "service": "prometheus@internal", "middlewares": ["api-password"],
                },
            },
            "middlewares": {
                "api-password": {"basicAuth": {"users": [f"{API_USER}:{{SHA}}{digest}"], "removeHeader": True}},
                "to-hub": {"headers": {"customRequestHeaders": {PROXY_HEADER: edge.hub_secret, "Forwarded": ""}}},
                # around everything: what a container or the Hub says of it is replaced
                "hsts": {"headers": {"customResponseHeaders": {
                    "Strict-Transport-Security": f"max-age={edge.hsts_seconds}" if edge.hsts_seconds else ""}}},
                "compress": {"compress": {
                    "minResponseBodyBytes": 1024, "encodings": ["zstd", "br", "gzip"],
                    "excludedContentTypes": list(NOT_COMPRESSED),
                }},
            },
            "services": {"hub": _service(edge.hub_url)},
            "serversTransports": {"servers": {
                "maxIdleConnsPerHost": 100, "forwardingTimeouts": {"dialTimeout": "500ms", "idleConnTimeout": "90s"},
            }},
        },
    }
    if edge.holding_url:
        # Traefik's own words for a Hub that is away are 502 and 504; the Hub has no page with these of its own accord.
        config["http"]["middlewares"]["holding"] = {"errors": {
            "status": ["502", "504"], "statusRewrites": {"502": 503, "504": 503},
            "service": "holding", "query": "/cgi-bin/holding?url={url}"}}
        config["http"]["services"]["holding"] = _service(edge.holding_url)
    if edge.tls:
        certificate = {"certFile": edge.certificate, "keyFile": edge.key}
        config["tls"] = {
            "certificates": [certificate], "stores": {"default": {"defaultCertificate": certificate}},
            "options": {"default": {
                "minVersion": "VersionTLS12", "cipherSuites": list(CIPHERS), "curvePreferences": list(CURVES),
                "alpnProtocols": ["h2", "http/1.1"],
            }},
        }
        config["http"]["routers"] |= _plain_routers(edge)
        config["http"]["middlewares"]["to-https"] = {
            "redirectScheme": {"scheme": "https", "port": str(edge.bind_port), "permanent": False}}
        if edge.challenge_url:
            config["http"]["services"]["challenge"] = _service(edge.challenge_url)
    return config


def _plain_routers(edge: Edge) -> Config:
    """Return what is done with HTTP where HTTPS is spoken; without TLS of its own a router gets only that."""
    plain = ["plain"] if edge.redirect else []
    routers: Config = {"to-https": {
        "entryPoints": ["web", *plain], "rule": "PathPrefix(`/`)", "priority": 1,
        "service": "hub", "middlewares": ["to-https"],
    }}
    if plain and edge.plain_help:
        # Who does not trust the box yet reads here how to; without a session, as its cookie is for HTTPS alone.
        hub = f"{edge.base_url}hub/"
        routers["help"] = {
            "entryPoints": plain, "priority": 2, "service": "hub", "middlewares": edge.to_hub,
            "rule": f"Method(`GET`) && (Path(`{hub}help`) || Path(`{hub}help/ca.crt`) || Path(`{hub}logo`)"
                    f" || PathPrefix(`{hub}static/`))",
        }
    if plain and edge.challenge_url:
        routers["challenge"] = {
            "entryPoints": plain, "rule": "PathPrefix(`/.well-known/acme-challenge/`)", "priority": 3,
            "service": "challenge",
        }
    return routers


def _tls(edge: Edge) -> Config:
    """Said by each router, not by the entry point: else nothing could answer HTTP that is spoken to the port of HTTPS."""
    return {"tls": {}} if edge.tls else {}


def marker_config(name: str) -> Config:
    """Return a file that does nothing: once Traefik knows the middleware, it has read the folder since the write."""
    return {"http": {"middlewares": {name: {"headers": {"customRequestHeaders": {PROXY_HEADER: ""}}}}}}


@dataclass(frozen=True)
class ServerFile:
    route: Route
    name: str                 # of the file
    text: str
    router: str               # of this version alone: when Traefik serves it, this version is live


def server_file(edge: Edge, route: Route, generation: int = 0) -> ServerFile:
    """Return the file that lets browsers in by `route`. Raises BadName if a part of it cannot stand in a rule.

    generation: tells a route from the same one that was replaced or removed in between.
    """
    made_of = (edge.base_url, edge.hub_url, edge.tls, edge.holding_url, route, generation)
    version = hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
    server_id = _checked(_SERVER_ID, route.server_id)
    prefix = literal(route.prefix)
    if not (prefix.startswith(edge.base_url) and prefix.endswith("/") and len(prefix) > 1):
        raise BadName("A route's path begins with the base URL and ends with a slash.")
    headers, strip, auth, errors = (f"{what}-{server_id}" for what in ("headers", "strip", "authorize", "errors"))
    inner = [headers, *([strip] if route.strip_prefix else [])]
    # The longer prefix first (a named server's is below the default one's); the capability before the slower way.
    priority = 1000 + 10 * len(prefix.encode())
    path = f"PathPrefix(`{prefix}`) && {_origin_rule(route.origins)}"

    def router(rule: str, step: int, service: str, middlewares: list[str]) -> Config:
        return {"entryPoints": ["web"], "rule": rule, "priority": priority + step,
                "service": service, "middlewares": ["hsts", *middlewares], **_tls(edge)}

    service = f"server-{server_id}"  # the same for every version, so that its counters go on
    routers = {f"token-{server_id}-{version}": router(
        f"{path} && HeaderRegexp(`Authorization`, `(?i)^(token|bearer) `)", 1, service,
        [errors, "to-hub", auth, *inner, "compress"])}
    if route.capabilities:
        values = "|".join(re.escape(_checked(_CAPABILITY, value)) for value in route.capabilities)
        cookie = f"(^|;\\s*){cookie_name(server_id)}=({values})\\s*(;|$)"
        routers[f"cookie-{server_id}-{version}"] = router(
            f"{path} && HeaderRegexp(`Cookie`, `{cookie}`)", 2, service, [errors, *inner, "compress"])
    if prefix.count("/") > edge.base_url.count("/") + 2:
        # A named server: who is not let in goes to the Hub, not to the default server whose prefix matches too.
        routers[f"else-{server_id}-{version}"] = router(
            f"PathPrefix(`{prefix}`)", 0, "hub", edge.to_hub)
    if route.below:
        # Named servers that do not run: the Hub says so, and not the default server, whose prefix matches too.
        others = [literal(other) for other in route.below]
        if not all(other.startswith(prefix) and other.endswith("/") and len(other) > len(prefix) for other in others):
            raise BadName("A server's path lies below that of its owner's default server and ends with a slash.")
        routers[f"below-{server_id}-{version}"] = router(
            " || ".join(f"PathPrefix(`{other}`) || Path(`{other[:-1]}`)" for other in others), 5, "hub", edge.to_hub)

    request_headers = {PROXY_HEADER: "", "Forwarded": ""}
    if route.injected_token is not None:
        request_headers["Authorization"] = f"token {_checked(_TOKEN, route.injected_token)}"
    middlewares: Config = {
        headers: {"headers": {
            "customRequestHeaders": request_headers,
            "customResponseHeaders": dict.fromkeys(REMOVED_RESPONSE_HEADERS, ""),
        }},
        # 503 stays the app's own: Traefik itself says 502 (refused) or 504 (no answer to the dial). {url} is absolute,
        # with the Host that the client said, and without the prefix where that was stripped.
        errors: {"errors": {
            "status": ["502", "504"], "service": "hub",
            "query": f"{edge.base_url}hub/error/{{status}}?server={server_id}&url={{url}}",
        }},
        # An answer without Authorization removes it: a user's API token never reaches a container.
        auth: {"forwardAuth": {
            "address": f"{edge.hub_url}{edge.base_url}hub/api/internal/authorize/{server_id}",
            "authRequestHeaders": ["Authorization", "Origin", PROXY_HEADER],
            "authResponseHeaders": ["Authorization"], "maxResponseBodySize": 65536,
            "trustForwardHeader": False,
        }},
    }
    if route.strip_prefix:
        middlewares[strip] = {"stripPrefix": {"prefixes": [prefix[:-1]]}}
    services = {service: _service(_checked(_URL, route.url), "servers")}
    text = dump({"http": {"routers": routers, "middlewares": middlewares, "services": services}})
    name = f"cookie-{server_id}-{version}" if route.capabilities else f"token-{server_id}-{version}"
    return ServerFile(route, f"{server_id}.yml", text, name)


def service_file_name(name: str) -> str:
    return f"{SERVICE_FILE}{name}.yml"


def service_file(edge: Edge, route: ServiceRoute) -> tuple[str, str]:
    """Return the name and the text of the file that leads everybody to a service. Raises BadName as server_file does.

    Nobody is let in here: the service itself asks the Hub who it is. As its pages share the Hub's origin, it may say no
    more about that than a container may.
    """
    name, prefix = _checked(_SERVICE, route.name), literal(route.prefix)
    if not (prefix.startswith(edge.base_url) and prefix.endswith(f"/{name}/")):
        raise BadName("A service's path begins with the base URL and ends with its name and a slash.")
    service, headers, errors = f"service-{name}", f"service-headers-{name}", f"service-errors-{name}"
    return service_file_name(name), dump({"http": {
        "routers": {service: {
            "entryPoints": ["web"], "rule": f"PathPrefix(`{prefix}`)", "priority": 1000 + 10 * len(prefix),
            "service": service, "middlewares": ["hsts", errors, headers, "compress"], **_tls(edge)}},
        "middlewares": {
            headers: {"headers": {
                "customRequestHeaders": {PROXY_HEADER: "", "Forwarded": ""},
                "customResponseHeaders": dict.fromkeys(REMOVED_RESPONSE_HEADERS, "")}},
            errors: {"errors": {
                "status": ["502", "504"], "service": "hub",
                "query": f"{edge.base_url}hub/error/service/{name}/{{status}}?url={{url}}"}},
        },
        "services": {service: _service(_checked(_SERVICE_URL, route.url), "servers")},
    }})


def literal(text: str) -> str:
    """Return `text` if it can stand between backticks in a rule as it is. Raises BadName.

    Names are validated long before; this is the second lock. A backtick ends the string, a brace is a template's, the
    rest never belongs in a path that was canonical.
    """
    if any(char in "`{}\\\"'<>^|%?# " or not char.isprintable() for char in text):
        raise BadName("That name cannot stand in an address.")
    return text


def _origin_rule(origins: tuple[str, ...]) -> str:
    none = "!HeaderRegexp(`Origin`, `.`)"
    if not origins:
        return none
    values = "|".join(re.escape(_checked(_ORIGIN, origin)) for origin in origins)
    return f"({none} || HeaderRegexp(`Origin`, `^({values})$`))"


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise BadName("A route holds something that cannot stand in a rule.")
    return text


def _service(url: str, transport: str = "") -> Config:
    balancer: Config = {"servers": [{"url": url}], "passHostHeader": True}
    if transport:
        balancer["serversTransport"] = transport
    return {"loadBalancer": balancer}
