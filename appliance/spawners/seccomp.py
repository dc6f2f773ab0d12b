"""A seccomp profile without the calls by which a student would get around the quota of a Btrfs home.

Whoever may write to a folder on Btrfs may make subvolumes and snapshots in it, each counted by itself and so without a
limit. The kernel has no switch for that; a filter of system calls is what can take it away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance.errors import BadOption

_BTRFS = 0x94                # second byte of every ioctl of Btrfs
# of its ioctls, those that became every file system's and copy within the quota: FICLONE, FICLONERANGE, FIDEDUPERANGE
_HARMLESS = (0x40049409, 0x4020940D, 0xC0189436)


def load(path: str) -> str:
    """Return the profile in a file, without Btrfs's ioctls, as the engine takes it. Raises BadOption."""
    try:
        profile = json.loads(Path(path).read_text())
        return json.dumps(without_btrfs(profile), separators=(",", ":"))
    except OSError as error:
        raise BadOption(f"the profile {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadOption(f"{path} is not a seccomp profile as the engine's own is.") from error


def without_btrfs(profile: dict[str, Any]) -> dict[str, Any]:
    """Raises BadOption."""
    if profile["defaultAction"] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS"):
        raise BadOption("a profile is needed that forbids what it does not name.")
    rules = []
    for rule in profile["syscalls"]:
        if "ioctl" not in rule["names"]:
            rules.append(rule)
            continue
        if rule["action"] != "SCMP_ACT_ALLOW" or rule.get("args"):
            raise BadOption("a profile is needed that has no conditions of its own for ioctl.")
        if others := [name for name in rule["names"] if name != "ioctl"]:
            rules.append({**rule, "names": others})
        rules += [{**rule, "names": ["ioctl"], "args": [condition]} for condition in conditions()]
    return {**profile, "syscalls": rules}


def conditions() -> list[dict[str, Any]]:
    """Return conditions of which an ioctl that is allowed meets at least one; there is no "not in a list"."""
    differs = [{"index": 1, "value": 1 << bit, "valueTwo": (~(_BTRFS << 8)) & (1 << bit), "op": "SCMP_CMP_MASKED_EQ"}
               for bit in range(8, 16)]
    return differs + [{"index": 1, "value": number, "valueTwo": 0, "op": "SCMP_CMP_EQ"} for number in _HARMLESS]
