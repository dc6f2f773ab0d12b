"""What all tiers share; pytest puts this folder on the path, so `from box import Box` works everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from box import Box


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="rewrite the README's pictures, docs/images/*.png")


@pytest.fixture(scope="session")
def shared_box() -> Iterator[Box]:
    """A whole running box for tests that leave it as it is; each uses accounts of its own."""
    with Box() as box:
        yield box
