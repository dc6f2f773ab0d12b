"""Looks at the box and changes nothing: prints one JSON object with what the roles decide by.

One program instead of a dozen tasks, because each task is a round trip. Standard library only; Python 3.11.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys

ASKED_FOR = (
    "apparmor", "btrfs-progs", "ca-certificates", "containerd.io", "docker-buildx", "docker-ce", "docker-cli", "docker-compose",
    "docker-compose-plugin", "docker-compose-v2", "docker.io", "e2fsprogs", "nftables", "prometheus",
    "prometheus-node-exporter", "python3-apt", "restic",
)
os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
os.environ["LC_ALL"] = "C.UTF-8"


def run(*words):
    """Return (exit status, standard output); 127 if there is no such program."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout.decode(errors="replace")


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def read_json(path):
    try:
        return json.loads(read(path) or "")
    except ValueError:
        return None


def os_release():
    return {key: value.strip("\"'") for key, _, value in
            (line.partition("=") for line in (read("/etc/os-release") or "").splitlines()) if value}


def memory_bytes():
    found = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def unit_is_active(name):
    return run("systemctl", "is-active", "--quiet", name)[0] == 0


def enabled_units():
    """Return our own units that systemd starts by itself, and Docker's."""
    _, text = run("systemctl", "list-unit-files", "--state=enabled", "--no-legend", "--plain", "appliance*", "*.mount",
                  "docker.service")
    return sorted(line.split()[0] for line in text.splitlines() if line.split())


def sshd_ports():
    """Return every port somebody may come in by: what sshd is configured for, and the one this run came by."""
    ports = set()
    if shutil.which("sshd"):
        os.makedirs("/run/sshd", exist_ok=True)  # what sshd's own unit makes; without it sshd does not say a word
        ports.update(int(port) for port in re.findall(r"^port (\d+)$", run("sshd", "-T")[1], re.MULTILINE))
    ports.update(int(port) for port in re.findall(r"[:=](\d+) \(Stream\)", run("systemctl", "show", "ssh.socket",
                                                                             "--property=Listen")[1])
                 if unit_is_active("ssh.socket"))
    process = os.getpid()
    while process > 1:  # sudo hides the variable: one of this process's parents has it
        environment = (read(f"/proc/{process}/environ") or "").split("\0")
        ports.update(int(line.split()[-1]) for line in environment
                     if line.startswith("SSH_CONNECTION=") and line.split()[-1].isdigit())
        stat = read(f"/proc/{process}/stat") or ""
        process = int(stat.rpartition(")")[2].split()[1]) if ")" in stat else 0
    return sorted(ports)


def networks():
    """Return the IPv4 networks this box reaches, without those of its own Docker bridges."""
    found = set()
    for route in json.loads(run("ip", "-j", "-4", "route", "show", "table", "main")[1] or "[]"):
        device = route.get("dev", "")
        if route.get("dst", "default") != "default" and not is_docker_bridge(device):
            found.add(route["dst"])
    return sorted(found)


def address():
    """Return the address others reach this box by, as far as the box can tell."""
    for route in json.loads(run("ip", "-j", "route", "get", "198.51.100.1")[1] or "[]"):
        if route.get("prefsrc"):
            return route["prefsrc"]
    return (run("hostname", "-I")[1].split() or ["localhost"])[0]


def is_docker_bridge(device):
    return device in ("docker0", "docker_gwbridge") or device.startswith("br-appliance") or bool(
        re.fullmatch(r"br-[0-9a-f]{12}", device))


def other_bridges():
    """Return bridges that are called like Docker's and are the admin's own."""
    names = (path.split("/")[4] for path in glob.glob("/sys/class/net/br-*/bridge"))
    return sorted(name for name in names if not is_docker_bridge(name))


def engine():
    status, text = run("docker", "info", "--format", "{{json .}}")
    try:
        info = json.loads(text) if status == 0 else {}
    except ValueError:
        info = {}
    there = {"installed": bool(shutil.which("dockerd")), "answers": bool(info.get("ServerVersion")),
             "version": info.get("ServerVersion", ""), "live_restore": bool(info.get("LiveRestoreEnabled")),
             "root": info.get("DockerRootDir", ""), "containers": [], "students": 0, "hub": False,
             "compose": run("docker", "compose", "version")[0] == 0}
    if there["answers"]:
        _, text = run("docker", "ps", "--all", "--format",
                      '{{.Names}}\t{{.State}}\t{{.Label "org.appliance.namespace"}}\t'
                      '{{.Label "com.docker.compose.project"}}')
        for row in text.splitlines():
            name, state, namespace, project = (row + "\t\t\t").split("\t")[:4]
            if namespace and state in ("running", "paused"):
                there["students"] += 1
            there["hub"] |= name == "appliance-hub" and state == "running"
            if not namespace and project != "appliance":
                there["containers"].append(name)
    there["serves_others"] = bool(there["containers"])
    return there


def apt_mirror():
    """Return where this box gets Debian from, "" if nobody can tell."""
    _, text = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages", "Origin: Debian")
    named = [uri.rstrip("/") for uri, release in (line.split(" ", 1) for line in text.splitlines() if " " in line)
             if release == os_release().get("VERSION_CODENAME") and uri.startswith(("http:", "https:"))]
    if named:
        return named[0]
    # before the first "apt-get update" apt does not know whose an archive is
    for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*")]:
        if "appliance" in path:
            continue
        found = re.search(r"^(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+/debian)/?(?:\s|$)", read(path) or "",
                          re.MULTILINE)
        if found:
            return found[1]
    return ""


def packages():
    """Return those of the packages that roles ask for which are installed."""
    _, text = run("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *ASKED_FOR)
    return sorted(line.split()[1] for line in text.splitlines() if line.startswith("installed "))


def firewalls():
    return {
        "ufw": "ENABLED=yes" in (read("/etc/ufw/ufw.conf") or "") and bool(shutil.which("ufw")),
        "firewalld": unit_is_active("firewalld.service"),
        "table": run("nft", "list", "table", "inet", "appliance_host")[0] == 0,
    }


def main():
    config = sys.argv[1] if len(sys.argv) > 1 else "/etc/appliance"
    release = os_release()
    print(json.dumps({
        "python": ".".join(map(str, sys.version_info[:2])),
        "distribution": release.get("ID", ""), "codename": release.get("VERSION_CODENAME", ""),
        "architecture": os.uname().machine,
        "memory_bytes": memory_bytes(),
        "apparmor": (read("/sys/module/apparmor/parameters/enabled") or "").strip() == "Y",
        "apt_mirror": apt_mirror(),
        "ssh_ports": sshd_ports(),
        "address": address(),
        "networks": networks(),
        "other_bridges": other_bridges(),
        "firewall": firewalls(),
        "docker": engine(),
        "engine_restart_due": os.path.exists("/run/appliance/engine-restart-due"),
        "daemon_json": read_json("/etc/docker/daemon.json"),
        "has_daemon_json": os.path.exists("/etc/docker/daemon.json"),
        "docker_active": unit_is_active("docker.service"),
        "enabled": enabled_units(),
        "packages": packages(),
        "installed": read_json(os.path.join(config, "installed.json")) or {},
    }))


main()
