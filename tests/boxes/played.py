"""Runs the playbook on a fresh box, in the box itself or over SSH, and reads what Ansible says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fresh_box import CLONE, REPOSITORY, FreshBox

VARIABLES = {
    "traefik_tls": "selfsigned",
    "storage_homes": "loop",
    "storage_homes_size": "3G",
    "storage_quota": "200M",
    "hub_student_memory": "1G",
    "appliance_admin_password": "three words suffice here",
    "appliance_users": [
        {"name": "alice", "display_name": "Alice Ångström", "groups": ["biology"], "password": "correct horse alice staple"},
        {"name": "bob", "display_name": "Bob", "groups": ["biology"]},
    ],
}


@dataclass(frozen=True)
class Played:
    output: str = field(repr=False)
    seconds: float
    changed: int
    failed: int
    changes: tuple[str, ...]        # the names of the tasks that changed something

    def __str__(self) -> str:
        return f"{self.output[-6000:]}\n{self.seconds:.0f} s"


def play_inside(box: FreshBox, variables: dict[str, object], *words: str, timeout_s: float = 1500, ok: bool = True) -> Played:
    """./bootstrap box, as an admin of the machine runs it."""
    box.write("/root/box.json", json.dumps(variables), "0600")
    began = time.monotonic()
    output = box.run(f"cd {CLONE} && ./bootstrap box -- -e @/root/box.json {' '.join(words)}", timeout_s=timeout_s, check=ok)
    return _read(output, time.monotonic() - began, ok)


def play_over_ssh(box: FreshBox, variables: dict[str, object], folder: Path, *words: str, ok: bool = True,
                  tree: Path = REPOSITORY) -> Played:
    """ansible-playbook from this machine; `folder` gets the inventory. tree: whose playbook and code are used."""
    inventory, extra = folder / "inventory.json", folder / "extra.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"box": {
        "ansible_host": box.address, "ansible_user": "root", "ansible_ssh_common_args": " ".join(box.ssh_options)}}}}))
    extra.write_text(json.dumps(variables))
    program = Path(sys.executable).parent / "ansible-playbook"
    began = time.monotonic()
    done = subprocess.run(
        [program, "-i", inventory, tree / "ansible/site.yml", "-e", f"@{extra}", *words], text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500,
        env={**os.environ, "ANSIBLE_CONFIG": str(tree / "ansible/ansible.cfg"), "ANSIBLE_NOCOLOR": "1"})
    assert not ok or done.returncode == 0, done.stdout[-8000:]
    return _read(done.stdout, time.monotonic() - began, ok)


def _read(output: str, seconds: float, ok: bool) -> Played:
    recap = re.search(r"changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", output)
    assert recap or not ok, output[-6000:]
    changes = tuple(re.findall(r"^TASK \[([^\]]*)\][ *]*\n(?:(?!TASK|RUNNING).*\n)*?changed:", output, re.MULTILINE))
    counts = (int(recap[1]), int(recap[2]) + int(recap[3])) if recap else (-1, -1)
    return Played(output, seconds, *counts, changes)
