"""`appliance doctor`: what works on this box, what does not, and what to do. It changes nothing and always answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from appliance.box import check_data, check_docker, check_network, check_parts, check_system, checks, shell
from appliance.box.checks import Check
from appliance.box.machine import Machine
from appliance.box.paths import Paths
from appliance.box.plan import Plan, plan_of_box
from appliance.box.shell import read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--quiet", action="store_true", help="leave out what is well")
    parser.add_argument("--smoke", action="store_true", help="at the end also sign in, start a server, run a cell and stop it")
    parser.add_argument("--metrics", type=Path, metavar="FILE",
                        help="also write figures to FILE, for the textfile collector of Prometheus' node_exporter")


def run(paths: Paths, parsed: argparse.Namespace) -> int:
    """0 if nothing failed, 1 otherwise; warnings are no failure."""
    machine, plan = Machine(paths), plan_of_box(paths)
    found = check(machine, plan)
    if parsed.smoke:
        found += checks.run_all([partial(_check_smoke, machine)])
    if parsed.metrics:
        shell.write_file(parsed.metrics, metrics(machine, plan, found))
    if parsed.json:
        shell.print_json(checks.report(found, release=str(read_json(paths.release_file).get("id", ""))))
    else:
        checks.say_all(found, quiet=parsed.quiet)
        failed, warned = (sum(each.status == status for each in found) for status in ("fail", "warn"))
        if not parsed.quiet or failed or warned:
            shell.say("")
        shell.say(f"{failed} of {len(found)} checks failed{f', {warned} warn' if warned else ''}." if failed
                  else f"The box is well{f', with {warned} warnings' if warned else ''}.")
    return 1 if checks.worst(found) == "fail" else 0


def check(machine: Machine, plan: Plan) -> list[Check]:
    return checks.run_all(the_checks(machine, plan))


def the_checks(machine: Machine, plan: Plan) -> list[Callable[[], Iterable[Check]]]:
    of_the_machine: list[Callable[[], Iterable[Check]]] = [
        partial(check_system.check_root, machine),
        partial(check_system.check_os, machine),
        partial(check_system.check_clock, machine),
        partial(check_system.check_cgroups, machine),
        partial(check_system.check_memory, machine, plan),
        partial(check_system.check_disks, machine, plan, installed=True),
        partial(check_docker.check_engine, machine, plan),
        partial(check_docker.check_live_restore, machine),
        partial(check_network.check_name, machine, plan),
        partial(check_network.check_subnet, machine, plan),
        partial(check_network.check_firewall, machine, plan),
        partial(check_parts.check_reboot, machine),
    ]
    if not machine.paths.current.exists() and not machine.own_containers:
        # everything else would fail for this one reason
        return [partial(check_parts.check_installed, machine), *of_the_machine]
    return [
        partial(check_parts.check_installed, machine),
        partial(check_parts.check_containers, machine, plan),
        partial(check_parts.check_images, machine),
        partial(check_parts.check_hub, machine, plan),
        partial(check_parts.check_front_door, machine, plan),
        partial(check_data.check_certificate, machine, plan),
        partial(check_data.check_acme, machine, plan),
        partial(check_parts.check_rules, machine, plan),
        partial(check_parts.check_slice, machine),
        partial(check_parts.check_memory_now, machine),
        partial(check_data.check_homes_now, machine, plan),
        partial(check_data.check_database, machine, plan),
        partial(check_data.check_backup, machine),
        partial(check_parts.check_secrets, machine),
        partial(check_parts.check_units, machine),
        *of_the_machine,
    ]


def _check_smoke(machine: Machine) -> Iterator[Check]:
    done = machine.run("docker", "exec", machine.paths.container("hub"), "appliance", "smoke", timeout_s=300)
    if done.ok:
        yield checks.ok("smoke", "A student signed in, started a server, ran a cell and stopped it.")
    else:
        yield checks.fail("smoke", f"The smoke test failed: {done.words.rstrip('.')}.", "Run “appliance smoke” to see each "
                          "step.")


def metrics(machine: Machine, plan: Plan, found: list[Check]) -> str:
    """Return the figures in Prometheus' text format."""
    homes = machine.disk(machine.paths.at(plan.homes))
    limit = check_parts.slice_limit(machine)
    rows: list[tuple[str, str, float | None]] = [
        ("doctor_time_seconds", "When the doctor last looked, in seconds since 1970.", machine.now()),
        ("checks_failed", "Checks of the doctor that failed.", sum(each.status == "fail" for each in found)),
        ("checks_warned", "Checks of the doctor that warn.", sum(each.status == "warn" for each in found)),
        ("certificate_days_left", "Days until the certificate that is served ends.", check_data.certificate_days(machine,
                                                                                                                 plan)),
        ("backup_age_seconds", "Age of the last backup.", check_data.backup_age_s(machine)),
        ("backup_ok", "1 if the last backup went well.", float(bool(read_json(machine.paths.backup_status).get("ok")))),
        ("homes_bytes_total", "Size of the homes' file system.", homes.total),
        ("homes_bytes_free", "What is free of it.", homes.free),
        ("students_memory_limit_bytes", "Memory all students together may use.", limit),
    ]
    lines = []
    for name, text, value in rows:
        if value is not None:
            lines += [f"# HELP appliance_{name} {text}", f"# TYPE appliance_{name} gauge", f"appliance_{name} {value:.17g}"]
    lines += ["# HELP appliance_check 0 well, 1 warns, 2 failed.", "# TYPE appliance_check gauge"]
    worst: dict[str, int] = {}
    for each in found:
        worst[each.code] = max(worst.get(each.code, 0), ("ok", "warn", "fail").index(each.status))
    lines += [f'appliance_check{{code="{code}"}} {value}' for code, value in worst.items()]
    return "\n".join(lines) + "\n"
