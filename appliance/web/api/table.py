"""Every operation of the REST API, in one table."""

from __future__ import annotations

from appliance.web.api import authorizations, groups, hubinfo, servers, services, shares, tokens, users
from appliance.web.api.openapi import Documentation
from appliance.web.api.operation import entries

_OPERATIONS = (
    *hubinfo.OPERATIONS, *users.OPERATIONS, *servers.OPERATIONS, *tokens.OPERATIONS, *groups.OPERATIONS,
    *authorizations.OPERATIONS, *shares.OPERATIONS, *services.OPERATIONS,
)
documentation = Documentation(_OPERATIONS)
OPERATIONS = (*_OPERATIONS, documentation.operation)
ENTRIES = entries(OPERATIONS)
