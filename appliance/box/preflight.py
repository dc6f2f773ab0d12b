"""`appliance preflight`: everything that can be checked before anything is changed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from appliance.box import (
    check_docker,
    check_homes,
    check_network,
    check_packages,
    check_ports,
    check_root,
    check_system,
    checks,
    shell,
)
from appliance.box.checks import Check
from appliance.box.machine import Machine
from appliance.box.paths import Paths
from appliance.box.plan import Plan, plan_of_box, read_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, metavar="FILE", help="what the box is to be, in JSON; without it the defaults")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(paths: Paths, parsed: argparse.Namespace) -> int:
    """0 if the box can be made, 1 if something has to be changed first."""
    plan = read_plan(parsed.plan) if parsed.plan else plan_of_box(paths)
    machine = Machine(paths)
    found = check(machine, plan)
    if parsed.json:
        shell.print_json(checks.report(found, facts=facts(machine, plan)))
    else:
        checks.say_all(found)
        counts = {status: sum(each.status == status for each in found) for status in ("fail", "warn")}
        shell.say("")
        shell.say(f"{counts['fail']} of {len(found)} checks failed: nothing was changed; correct them first." if counts["fail"]
                  else f"This machine can become a classroom box{', with the warnings above' if counts['warn'] else ''}.")
    return 1 if checks.worst(found) == "fail" else 0


def check(machine: Machine, plan: Plan) -> list[Check]:
    return checks.run_all(the_checks(machine, plan, installed=machine.paths.current.exists()))


def the_checks(machine: Machine, plan: Plan, *, installed: bool) -> list[Callable[[], Iterable[Check]]]:
    """`installed`: this is a rerun, for which less space is enough."""
    return [
        partial(check_system.check_os, machine),
        partial(check_system.check_architecture, machine),
        partial(check_system.check_root, machine),
        partial(check_system.check_systemd, machine),
        partial(check_system.check_kernel, machine, plan),
        partial(check_system.check_cgroups, machine),
        partial(check_system.check_memory, machine, plan),
        partial(check_system.check_swap, machine),
        partial(check_system.check_disks, machine, plan, installed=installed),
        partial(check_homes.check_homes, machine, plan),
        partial(check_homes.check_kind_of_database, machine, plan),
        partial(check_system.check_clock, machine),
        partial(check_system.check_timezone, machine),
        partial(check_docker.check_engine, machine, plan),
        partial(check_docker.check_other_containers, machine),
        partial(check_docker.check_daemon_json, machine),
        partial(check_ports.check_ports, machine, plan),
        partial(check_ports.check_web_servers, machine),
        partial(check_network.check_name, machine, plan),
        partial(check_network.check_ipv6, machine),
        partial(check_network.check_subnet, machine, plan),
        partial(check_network.check_firewall, machine, plan),
        partial(check_packages.check_authorities, machine),
        partial(check_packages.check_packages, machine, plan),
        partial(check_homes.check_certificate_files, machine, plan),
        partial(check_root.check_own_root, machine, plan),
        partial(check_homes.check_users_file, machine, plan),
    ]


def facts(machine: Machine, plan: Plan) -> dict[str, Any]:
    """What the playbook may want to know without asking again."""
    total = machine.memory.get("MemTotal", 0)
    reserve = plan.reserve_bytes(total)
    return {
        "memory_bytes": total, "memory_reserve_bytes": reserve,
        "students_memory_bytes": max(total - reserve, 0),
        "students_fit": max(total - reserve, 0) // plan.student_memory_bytes,
        "docker_version": str((machine.engine or {}).get("ServerVersion", "")),
        "docker_root": check_system.docker_root(machine),
        "addresses": check_network.own_addresses(machine),
    }
