#!/usr/bin/env python3
"""Writes VARIABLES.md: every variable of every role, out of their argument_specs. A test holds it against them.

    python ansible/variables.py > ansible/VARIABLES.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent


def lines() -> Iterator[str]:
    """One table a role, in the order in which the playbook runs them."""
    yield "# Variables of the playbook"
    yield ""
    yield "Made by `python ansible/variables.py`; change `roles/*/meta/argument_specs.yml` instead."
    yield "[The box](../docs/playbook.rst) says how they are given, and each role's README what it changes."
    order = re.findall(r"role: (\w+)|^\s+name: (\w+)$", (HERE / "site.yml").read_text(encoding="utf-8"), re.MULTILINE)
    roles = [name for found in order for name in found if name and (HERE / "roles" / name).is_dir()]
    for role in dict.fromkeys(roles):
        spec = yaml.safe_load((HERE / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
        yield from ("", f"## [{role}](roles/{role}/README.md)", "", f"{cell(spec['main']['short_description'])}.", "",
                    "| Variable | Default | What it says |", "|---|---|---|")
        for entry in spec.values():
            for name, option in entry.get("options", {}).items():
                yield f"| `{name}` | {default(option)} | {words(option)} |"


def words(option: dict[str, Any]) -> str:
    said = option["description"]
    parts = [said if isinstance(said, str) else " ".join(said)]
    if "choices" in option:
        parts.append(f"One of {', '.join(f'`{choice}`' for choice in option['choices'])}.")
    for key, inner in option.get("options", {}).items():
        parts.append(f"<br>`{key}`: {words(inner)}")
    return cell(" ".join(parts))


def default(option: dict[str, Any]) -> str:
    value = option.get("default")
    if value is None or value == "":
        return ""
    return f"`{cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}`"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print("\n".join(lines()))
