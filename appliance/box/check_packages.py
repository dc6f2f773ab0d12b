"""Checks of where packages come from."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan

LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")
OTHERS_S = 180.0


def check_authorities(machine: Machine) -> Iterator[Check]:
    folder = machine.paths.at("/usr/local/share/ca-certificates")
    extra = sorted(path.name for path in folder.rglob("*.crt")) if folder.is_dir() else []
    proxies = sorted({f"{key}={_without_password(value)}" for key, value in os.environ.items()
                      if key.lower() in ("http_proxy", "https_proxy") and value})
    words = []
    if extra:
        words.append(f"This machine trusts {len(extra)} certificate authorities of its own ({', '.join(extra[:3])}"
                     f"{' …' if len(extra) > 3 else ''}), as behind a proxy that reads TLS; images that are built here "
                     "trust them too.")
    if proxies:
        words.append(f"A proxy is set ({', '.join(proxies)}).")
    yield ok("authorities", " ".join(words) or "This machine has no certificate authority of its own and no proxy.")


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def check_packages(machine: Machine, plan: Plan) -> Iterator[Check]:
    if not _wait_for_others(machine):
        yield fail("dpkg", f"Packages have been installed on this machine for more than {OTHERS_S:.0f} s, by somebody else.",
                   "Wait until that is over (ps -C apt,apt-get,dpkg,unattended-upgr), then try again.")
        return
    broken = machine.run("dpkg", "--audit").stdout.strip()
    if broken:
        yield fail("dpkg", "An installation of packages was interrupted on this machine.",
                   "Run: dpkg --configure -a && apt-get -f install")
    if plan.offline:
        yield ok("packages", "Packages come from the offline bundle; no network is needed.")
        return
    said = machine.run("apt-get", "--print-uris", "update").stdout
    uris = list(dict.fromkeys(re.findall(r"'([a-z+]+:[^']*InRelease)'", said)))
    if not uris:
        yield fail("packages", "apt knows no source of packages.",
                   "Enter the distribution's sources in /etc/apt/sources.list.d, or install from an offline bundle.")
        return
    dead, proxies = [], _apt_proxies(machine)
    for uri in uris[:6]:
        reason = _why_unreachable(machine, uri, proxies)
        if reason:
            dead.append(f"{uri.split('/dists/')[0]} ({reason})")
    if not dead:
        yield ok("packages", f"apt reaches its sources of packages ({len(uris)}).")
    elif len(dead) == len(uris[:6]):
        yield fail("packages", f"apt reaches none of its sources of packages: {'; '.join(dict.fromkeys(dead))}.",
                   "Connect this machine to the internet or set apt's proxy; without internet install from an offline bundle "
                   "(appliance offline-bundle).")
    else:
        yield warn("packages", f"apt does not reach some of its sources of packages: {'; '.join(dict.fromkeys(dead))}.",
                   "Remove the dead ones from /etc/apt/sources.list.d, or apt-get update will fail.")


def _wait_for_others(machine: Machine) -> bool:
    """Wait until nobody installs packages: upgrades by night do it, and what a killed run had begun goes on for a while.
    False if it takes too long."""
    deadline = time.monotonic() + OTHERS_S
    while any(_is_locked(machine.paths.at(lock)) for lock in LOCKS):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)    # let go at once, by the end of the block
    except BlockingIOError:
        return True
    except OSError:     # there is none, or it is not ours to ask
        return False
    return False


def _apt_proxies(machine: Machine) -> dict[str, str] | None:
    """Return apt's own proxies; None: those of the environment."""
    said = machine.run("apt-config", "dump", "Acquire").stdout
    found = dict(re.findall(r'Acquire::(https?)::Proxy "([^"]+)"', said, re.IGNORECASE))
    return {key.lower(): value for key, value in found.items()} or None


def _why_unreachable(machine: Machine, uri: str, proxies: dict[str, str] | None) -> str:
    scheme, _, rest = uri.partition(":")
    if scheme in ("file", "copy"):
        folder = Path("/" + rest.lstrip("/").split("/dists/")[0])
        return "" if machine.exists(folder) else "no such folder"
    if scheme not in ("http", "https"):
        return ""  # cdrom, mirror+file: apt knows
    status, reason = machine.fetch(uri, 8.0, proxies)
    return "" if 0 < status < 500 and status != 407 else reason[:120] if not status else f"it answered {status}"
