"""Brings a database up to date: `python -m appliance.store.migrate`, the database's URL on standard input."""

from __future__ import annotations

import sys

from alembic import command
from alembic.config import Config

from appliance.store.database import MIGRATIONS


def upgrade(url: str, revision: str = "head") -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    command.upgrade(config, revision)


if __name__ == "__main__":
    upgrade(sys.stdin.read().strip())
