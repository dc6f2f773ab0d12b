"""What all tiers share; pytest puts this folder on the path, so `from box import Box` works everywhere."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="rewrite the README's pictures, docs/images/*.png")
