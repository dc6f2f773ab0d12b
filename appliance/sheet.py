"""The printable sheet: a card for each person, to be cut out. One file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from appliance.errors import BadInput
from appliance.roster import Card

_STYLE = """
@page { size: A4; margin: 12mm 10mm; }
* { box-sizing: border-box; }
body { font: 11pt/1.35 system-ui, "Liberation Sans", Arial, sans-serif; color: #000; background: #fff;
  margin: 0 auto; max-width: 190mm; }
p.note { font-size: 9pt; margin: 3mm 0 5mm; }
h2 { font-size: 13pt; margin: 0 0 3mm; break-after: avoid; }
section + section { break-before: page; }
ul { list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: 1fr 1fr; }
li { border: 0.3mm dashed #888; margin: -0.15mm; padding: 4mm 5mm; min-height: 42mm;
  break-inside: avoid; overflow-wrap: anywhere; }
h3 { font-size: 13pt; margin: 0 0 2mm; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.8mm 3mm; margin: 0; }
dt { color: #444; font-size: 9.5pt; padding-top: 0.4mm; }
dd { margin: 0; }
code { font: 11.5pt "Liberation Mono", "DejaVu Sans Mono", Consolas, monospace; }
@media screen { body { padding: 8mm; } }
@media print { p.note { display: none; } }
"""


def render(cards: Sequence[Card], address: str) -> str:
    """Return the page. cards: in the order they are printed in; a new page begins with each set of groups."""
    sections: list[str] = []
    for group in dict.fromkeys(", ".join(card.groups) for card in cards):
        items = "\n".join(_card(card, address) for card in cards if ", ".join(card.groups) == group)
        heading = f"<h2>{escape(group)}</h2>\n" if group else ""
        sections.append(f"<section>\n{heading}<ul>\n{items}\n</ul>\n</section>")
    return (
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<meta name=\"robots\" content=\"noindex\">\n<title>Sign-in cards</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<p class=\"note\">{len(cards)} card{'' if len(cards) == 1 else 's'}. Print this page, cut the cards out and delete "
        "the file: the passwords are nowhere else.</p>\n" + "\n".join(sections) + "\n</body>\n</html>\n")


def _card(card: Card, address: str) -> str:
    rows = [("Address", f"<code>{escape(address)}</code>"), ("Login", f"<code>{escape(card.name)}</code>"),
            ("Password", f"<code>{escape(card.password)}</code>")]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f"<li><h3>{escape(card.display_name or card.name)}</h3><dl>{listed}</dl></li>"


def write(path: Path, text: str) -> None:
    """Write a new file that only its owner reads. Raises BadInput; one that is there holds passwords and stays."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BadInput(f"{path} is there already and was left alone, because passwords may be in it. Nothing was changed.",
                       action="Name another file with --sheet, or delete that one.") from None
    except OSError as error:
        raise BadInput(f"The sheet {path} cannot be written: {error.strerror or error}. Nothing was changed.",
                       action="Name a file in the box's data folder, for example /var/lib/appliance/cards.html.") from error
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
