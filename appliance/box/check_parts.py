"""Checks of an installed box's parts: containers, images, Hub, front door, rules, limits, services."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from functools import cache

from appliance import errors
from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import GIB, Plan
from appliance.box.shell import read_json, size

_RUN_AGAIN = "Run the playbook again"
_UNLIMITED = 2 ** 62  # what control groups v1 say where there is no limit


def uses_postgres(machine: Machine, plan: Plan) -> bool:
    return plan.database == "postgres" or "postgres" in machine.paths.env().get("COMPOSE_PROFILES", "").split(",")


def check_installed(machine: Machine) -> Iterator[Check]:
    release = read_json(machine.paths.release_file)
    if not machine.paths.current.exists():
        yield fail("installed", "No classroom box is installed on this machine.", "Run the playbook, or ./bootstrap box.")
    elif not release.get("id"):
        yield fail("installed", f"The current release ({machine.paths.current}) is not whole.", f"{_RUN_AGAIN}, or: "
                   f"appliance rollback")
    elif (machine.paths.opt / "switch.json").exists():  # also while one is under way, which ends by itself
        yield fail("installed", "A switch to another release was not ended.", "If none runs now: appliance switch --finish")
    elif (machine.paths.opt / "restore.json").exists():
        yield fail("installed", "A restore was not ended.", "If none runs now: appliance switch --finish")
    else:
        yield ok("installed", f"Release {release['id']} is installed.")


def check_containers(machine: Machine, plan: Plan) -> Iterator[Check]:
    if machine.engine is None:
        yield fail("containers", "Docker does not answer, so nothing of the box can be started or stopped. What runs goes on.",
                   "Start it: systemctl start docker; if that fails: journalctl -u docker")
        return
    for service in ("hub", "traefik", "holding", *(["postgres"] if uses_postgres(machine, plan) else [])):
        code, name, found = f"container-{service}", machine.paths.container(service), machine.own_containers.get(service)
        start = f"Start what is missing: appliance switch; if that fails look at: docker logs {name}"
        if found is None:
            yield fail(code, f"The container {name} is not there.", start)
            continue
        state = found.get("State") or {}
        health = (state.get("Health") or {}).get("Status", "")
        restarts = int(found.get("RestartCount") or 0)
        if state.get("Status") != "running":
            why = " because memory ran out" if state.get("OOMKilled") else f" with status {state.get('ExitCode')}"
            yield fail(code, f"The container {name} does not run; it ended{why}.", start)
        elif health == "unhealthy":
            yield fail(code, f"The container {name} runs but does not answer its health check.", f"Look at: docker logs {name}")
        elif health == "starting":
            yield warn(code, f"The container {name} has just started.", "Ask again in a minute.")
        elif restarts > 3:
            yield warn(code, f"The container {name} runs, but was restarted {restarts} times.", f"Look at: docker logs {name}")
        else:
            yield ok(code, f"The container {name} runs{' and is healthy' if health else ''}.")
        yield from _check_pinned(machine, service, str(found.get("Image", "")))


def _check_pinned(machine: Machine, service: str, image: str) -> Iterator[Check]:
    pinned = (read_json(machine.paths.release_file).get("images") or {}).get(service)
    if pinned and image and image != pinned:
        yield warn(f"image-{service}", f"The container {machine.paths.container(service)} runs another image than the "
                   f"release says.",
                   f"{_RUN_AGAIN}; it replaces the container and ends no student's server.")


def check_images(machine: Machine) -> Iterator[Check]:
    if machine.engine is None:
        return
    images = read_json(machine.paths.release_file).get("images") or {}
    missing = [name for name, image in sorted(images.items())
               if image and not machine.run("docker", "image", "inspect", "--format", "{{.Id}}", str(image)).ok]
    if missing:
        yield fail("images", f"Images of the release are missing: {', '.join(missing)}.",
                   f"{_RUN_AGAIN}; it builds or loads them. Do not use “docker system prune --all” on this machine.")
    elif images:
        yield ok("images", f"All {len(images)} images of the release are here, as they were pinned.")
    else:
        yield warn("images", "The release does not say which images it has.", f"{_RUN_AGAIN}.")


@cache
def remedies() -> dict[str, tuple[str, str]]:
    """(sentence, action) of every failure the box knows, by its code."""
    found: dict[str, tuple[str, str]] = {}

    def walk(cls: type[errors.ApplianceError]) -> None:
        found.setdefault(cls.code, (cls.sentence, cls.action))
        for each in cls.__subclasses__():
            if each.__module__ == errors.__name__:
                walk(each)

    walk(errors.ApplianceError)
    return found


def hub_health(machine: Machine, plan: Plan) -> dict[str, object] | str:
    """What the Hub says at its own port; a str is why it says nothing."""
    status, text = machine.fetch(f"http://127.0.0.1:{plan.hub_port}{_health(machine)}")
    try:
        said = json.loads(text) if status == 200 else None
    except ValueError:
        said = None
    return said if isinstance(said, dict) else f"it answered {status}" if status else text


def _health(machine: Machine) -> str:
    return f"/{machine.paths.env().get('APPLIANCE_BASE_URL', '').strip('/')}/hub/health".replace("//", "/")


def check_hub(machine: Machine, plan: Plan) -> Iterator[Check]:
    said = hub_health(machine, plan)
    name = machine.paths.container("hub")
    if isinstance(said, str):
        yield fail("hub", f"The Hub does not answer at port {plan.hub_port} ({said}). Running servers go on; nobody can sign "
                   f"in.",
                   f"Look at: docker logs --tail 50 {name}")
        return
    listed = said.get("problems")
    problems = [str(each) for each in listed] if isinstance(listed, list) else []
    # the first is the check “acme”'s, and without a service servers start as ever
    stopping = [code for code in problems if code not in (errors.CertificateTrouble.code, errors.ServiceFailed.code)]
    if errors.ServiceFailed.code in problems:
        yield warn("hub", "A service that the Hub should run does not run.",
                   f"Open /hub/services, which shows what it printed last, or look at: docker logs {name}")
    elif not stopping:
        yield ok("hub", f"The Hub (version {said.get('version', 'unknown')}) answers and can start servers.")
    for code in stopping:
        sentence, action = remedies().get(code, (f"The Hub says “{code}”.", f"Look at: docker logs {name}"))
        yield fail("hub", f"The Hub cannot start servers ({code}): {sentence}", action)
    if "isolation-unproven" in problems:
        yield fail("isolation", "It is not proven that students' servers are kept apart, so none is started.",
                   remedies()["isolation-unproven"][1])
    elif not {"engine-down", "engine-unsuitable"} & set(problems):
        yield ok("isolation", "When the Hub last made itself ready, two probes proved that servers do not reach each other or "
                 "this machine.")
    else:
        yield warn("isolation", "Whether students' servers are kept apart could not be proven.", "See what the Hub says, "
                   "above.")


def front_url(plan: Plan, path: str) -> str:
    scheme, port, usual = ("http", plan.http_port, 80) if plan.tls == "off" else ("https", plan.https_port, 443)
    return f"{scheme}://127.0.0.1{'' if port == usual else f':{port}'}{path}"


def check_front_door(machine: Machine, plan: Plan) -> Iterator[Check]:
    url = front_url(plan, _health(machine))
    status, text = machine.fetch(url)
    name = machine.paths.container("traefik")
    if status == 200:
        yield ok("front-door", f"The box answers at {url.removesuffix('/hub/health')}, and Traefik leads to the Hub.")
    elif status:
        yield fail("front-door", f"Traefik answers, but not with the Hub's page (status {status}).",
                   f"Is the Hub running? Look at: docker logs --tail 50 {machine.paths.container('hub')}")
    else:
        yield fail("front-door", f"Nothing answers at {url.removesuffix('/hub/health')}: {text}.",
                   f"Look at: docker logs --tail 50 {name}; “appliance preflight” says who has the port.")


def check_rules(machine: Machine, plan: Plan) -> Iterator[Check]:
    """The tables themselves; whether they hold is what the Hub's probes prove."""
    done = machine.run("nft", "list", "tables")
    if not done.ok:  # Debian 12's crashes on tables that a newer one made; the Hub brings that newer one along
        inside = machine.run("docker", "exec", machine.paths.container("hub"), "nft", "list", "tables")
        done = inside if inside.ok else done
    if not done.ok:
        yield warn("firewall-rules", f"The firewall's rules could not be read: {done.words}.", "Run it as root; install "
                   "nftables.")
        return
    tables = {line.removeprefix("table ").strip() for line in done.stdout.splitlines()}
    hub = machine.paths.container("hub")
    name = re.sub(r"[^A-Za-z0-9]", "_", machine.paths.name)
    wanted = "inet appliance" if name == "appliance" else f"inet appliance_{name}"
    if wanted in tables:
        yield ok("firewall-rules", f"The rules for students' servers are in place (table {wanted}).")
    else:
        yield fail("firewall-rules", f"The rules for students' servers (table {wanted}) are gone; somebody flushed them.",
                   f"The Hub puts them back: docker restart {hub} (ends no server). Never use “nft flush ruleset” here.")
    unit = "appliance-firewall.service"  # of the role firewall, which one may leave out
    if "inet appliance_host" not in tables and machine.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled":
        yield fail("firewall-host", "The rules that protect this machine itself (table inet appliance_host) are gone.",
                   f"Put them back: systemctl restart {unit}")


def slice_limit(machine: Machine) -> int | None:
    """Return the bytes all students together may use; None: there is no limit."""
    for file in ("/sys/fs/cgroup/appliance.slice/memory.max", "/sys/fs/cgroup/memory/appliance.slice/memory.limit_in_bytes"):
        text = machine.read(file).strip()
        if text.isdigit():
            return int(text) if int(text) < _UNLIMITED else None
        if text == "max":
            return None
    said = machine.run("systemctl", "show", "appliance.slice", "--property=MemoryMax", "--value").stdout.strip()
    return int(said) if said.isdigit() and int(said) < _UNLIMITED else None


def check_slice(machine: Machine) -> Iterator[Check]:
    limit, total = slice_limit(machine), machine.memory.get("MemTotal", 0)
    if limit is None:
        yield fail("students-limit", "Nothing limits what all students together may use (appliance.slice), so a class can "
                   "take the "
                   "machine down.", f"{_RUN_AGAIN}.")
    elif total and limit > total - GIB // 4:
        yield warn("students-limit", f"All students together may use {size(limit)} of {size(total)}; too little is left for "
                   f"the box.",
                   f"Raise appliance_memory_reserve and {_RUN_AGAIN.lower()}.")
    else:
        yield ok("students-limit", f"All students together may use {size(limit)} of {size(total)} of memory.")


def check_memory_now(machine: Machine) -> Iterator[Check]:
    total, free = machine.memory.get("MemTotal", 0), machine.memory.get("MemAvailable", 0)
    if total and free < max(total // 50, GIB // 8):
        yield fail("memory-now", f"Only {size(free)} of memory are free.", "Stop servers nobody uses (Admin page), or add "
                   "memory.")
    elif total and free < total // 10:
        yield warn("memory-now", f"{size(free)} of {size(total)} of memory are free.", "Stop servers nobody uses, or add "
                   "memory.")
    else:
        yield ok("memory-now", f"{size(free)} of {size(total)} of memory are free.")


def check_units(machine: Machine) -> Iterator[Check]:
    done = machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager",
                       "appliance*", "docker*", "containerd*", "*appliance*.mount")
    if not done.ok:
        yield warn("units", f"systemd could not be asked: {done.words}.", "Is this the box itself?")
        return
    failed = sorted({line.split()[0] for line in done.stdout.splitlines() if line.split()})
    if failed:
        yield fail("units", f"Services of the box have failed: {', '.join(failed)}.",
                   f"Look at: journalctl -u {failed[0]} -n 50; then: systemctl restart {failed[0]}")
    else:
        yield ok("units", "No service of the box has failed.")


def check_reboot(machine: Machine) -> Iterator[Check]:
    if machine.exists("/run/reboot-required") or machine.exists("/var/run/reboot-required"):
        packages = machine.read("/run/reboot-required.pkgs").split()
        yield warn("reboot", f"An update waits for a "
                   f"reboot{f' ({chr(44).join(sorted(set(packages))[:3])})' if packages else ''}.",
                   "Reboot after school; servers that ran are started again.")
    else:
        yield ok("reboot", "No update waits for a reboot.")


def check_secrets(machine: Machine) -> Iterator[Check]:
    paths = machine.paths
    files = [paths.cookie_secret, *sorted(paths.secrets.glob("*")), *sorted(paths.tls.glob("*.key"))]
    open_ = []
    for path in files:
        try:
            if path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                open_.append(str(path))
        except OSError:
            continue
    if paths.secrets.exists() and paths.secrets.stat().st_mode & stat.S_IRWXO:
        open_.append(str(paths.secrets))
    if open_:
        yield fail("secrets", f"Other users of this machine may read the box's secrets: {', '.join(open_)}.",
                   "Run: chmod o-rwx,g-w " + " ".join(open_))
    else:
        yield ok("secrets", "Only root reads the box's secrets.")
