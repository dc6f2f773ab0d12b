"""Changes a database's schema: `python -m appliance.store.migrate upgrade|downgrade REVISION`, its URL on standard input."""

from __future__ import annotations

import sys

from alembic import command
from alembic.config import Config

from appliance.store.database import MIGRATIONS


def upgrade(url: str, revision: str = "head") -> None:
    command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    command.downgrade(_config(url), revision)


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


if __name__ == "__main__":
    {"upgrade": upgrade, "downgrade": downgrade}[sys.argv[1]](sys.stdin.read().strip(), sys.argv[2])
