"""What the event log says of each kind of event: a schema's address, and the fields there are.

A line is what JupyterHub's own log of events (jupyter_events) has, so that what reads those reads these. Only fields named
here are written, so nothing gets out by being put beside an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from appliance.domain.server import Phase

METADATA_VERSION = 1
SERVER_ACTION = "https://schema.jupyter.org/jupyterhub/events/server-action"

ACTOR = {"actor": "who did it: a user's name, a service's, a command's, or hub"}
USER = ACTOR | {"username": "whose account or server it is"}
SERVER = USER | {"servername": "the server's name, empty for the default one",
                 "server_id": "the server's id, which is never given twice", "start_no": "which of its starts, counted from 1"}
SHARE = SERVER | {"scopes": "what the share allows"}
GROUP = ACTOR | {"group": "the group's name"}
SERVICE = ACTOR | {"service": "the service's name"}
ADMIN = {"admin": "whether it is an admin's"}
ADDRESS = {"address": "where the browser was"}


@dataclass(frozen=True)
class EventSchema:
    """fields: what each means, by name. fixed: fields whose value follows from the kind."""

    id: str
    description: str
    fields: Mapping[str, str]
    fixed: Mapping[str, str]
    version: str = "1"


def _own(kind: str, description: str, fields: Mapping[str, str]) -> tuple[str, EventSchema]:
    return kind, EventSchema(f"urn:appliance:events:{kind}", description, fields, {})


def _action(phase: Phase, action: str, description: str) -> tuple[str, EventSchema]:
    fields = {"action": "start or stop", "username": USER["username"], "servername": SERVER["servername"]}
    return f"server.{phase}", EventSchema(SERVER_ACTION, description, fields, {"action": action})


SCHEMAS: Mapping[str, EventSchema] = dict((
    _action(Phase.READY, "start", "A server lets its owner in."),
    _action(Phase.STOPPED, "stop", "A server has stopped, or its start was called off."),
    _own("server.queued", "A server is to start, and waits for a place.",
         SERVER | {"why": "why it is started without anybody's click"}),
    _own("server.starting", "A server's container is being made.", SERVER),
    _own("server.booting", "A server's container runs, its app does not answer yet.", SERVER),
    _own("server.stop-wanted", "Somebody, or a service, wants a server stopped.", SERVER),
    _own("server.stopping", "A server's container is being stopped.", SERVER),
    _own("server.failed", "A server could not start, or ended by itself.",
         SERVER | {"code": "the cause, as the page about failures names it", "sentence": "what its owner reads"}),
    _own("server.made", "A named server was made.", SERVER),
    _own("server.renamed", "A named server got another name.", SERVER | {"from": "its former name", "to": "its new name"}),
    _own("server.deleted", "A named server was deleted.", SERVER),
    _own("server.adopted", "A server that ran was found again without the database that knew it.", SERVER),
    _own("user.added", "An account was made.", USER | ADMIN),
    _own("user.admin", "Somebody became an admin, or is none any more.", USER | ADMIN),
    _own("user.archived", "An account was archived.", USER),
    _own("user.unarchived", "An archived account is in use again.", USER),
    _own("user.deleted", "An account was deleted.", USER),
    _own("user.renamed", "An account got another name.", USER | {"from": "the former name", "to": "the new name"}),
    _own("user.password", "An account got another password.", USER),
    _own("user.groups", "Somebody's groups were set.", USER | {"groups": "the groups there are now"}),
    _own("group.added", "A group was made.", GROUP),
    _own("group.members", "Somebody came into a group or left it.",
         GROUP | {"added": "who came, the first of them", "removed": "who left, the first of them"}),
    _own("group.properties", "A group's properties were set.", GROUP),
    _own("group.deleted", "A group was deleted.", GROUP),
    _own("session.begun", "Somebody signed in.", USER | ADDRESS),
    _own("session.ended", "Somebody signed out, or was signed out.", USER),
    _own("sign-in.refused", "Somebody could not sign in; username is what was typed as the name.", USER | ADDRESS),
    _own("token.created", "An API token was made.", USER | {
        "id": "the token's number, which is no secret", "note": "what it is for", "scopes": "what it allows",
        "service": "whose it is, if it is a service's"}),
    _own("token.revoked", "An API token was revoked.", USER | {
        "id": "the token's number, which is no secret", "note": "what it was for"}),
    _own("service.created", "A service was made over the API.", SERVICE | ADMIN),
    _own("service.deleted", "A service that was made over the API was deleted.", SERVICE),
    _own("share.granted", "A server was shared.", SHARE | {"user": "with whom", "group": "with which group"}),
    _own("share.revoked", "A server is no longer shared.", SHARE | {"user": "with whom it was", "group": "with which group"}),
    _own("share-code.created", "A share code was made.", SHARE | {"code": "the code's id, which opens nothing"}),
    _own("share-code.deleted", "Share codes were deleted.", SERVER | {"codes": "their ids, which open nothing"}),
))


def record(kind: str, at: datetime, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as a line of the log has it. said: every field that is known, more than the schema has or fewer."""
    schema = SCHEMAS[kind]
    known = {**said, **schema.fixed}
    return {"__timestamp__": f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z",
            "__schema__": schema.id, "__schema_version__": schema.version, "__metadata_version__": METADATA_VERSION,
            **{name: known[name] for name in schema.fields if name in known}}
