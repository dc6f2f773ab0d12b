"""The configuration of docs/nbgrader.rst, with a folder and an image of a test's own."""

from __future__ import annotations

from pathlib import Path

from box import REPOSITORY

EXAMPLE = REPOSITORY / "docs/examples/nbgrader_class_config.py"


def make_exchange(folder: Path) -> Path:
    """Make the folder of the exchange in one of pytest's, which is closed to everybody else until then."""
    exchange = folder / "exchange"
    exchange.mkdir()
    exchange.chmod(0o1777)
    for each in (folder, folder.parent):
        each.chmod(0o755)
    return exchange


def nbgrader_config(image: str, exchange: Path) -> str:
    """Return the file as it is there, but for the image's name and the exchange."""
    text = EXAMPLE.read_text().replace("c = get_config()  # noqa: F821\n", "")
    for documented, ours in (('IMAGE = "school/class:latest"', f"IMAGE = {image!r}"),
                             ('EXCHANGE = "/srv/nbgrader/exchange"', f"EXCHANGE = {str(exchange)!r}")):
        assert text.count(documented) == 1
        text = text.replace(documented, ours)
    return text
