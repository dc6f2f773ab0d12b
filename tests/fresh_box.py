"""A fresh server: a container with systemd and sshd, nothing else, on the test machine's own engine.

    with FreshBox("trixie") as box:
        box.clone()                                   # this repository, in /opt/clone
        box.run("cd /opt/clone && ./bootstrap box", timeout_s=1200)
        box.reboot()
        box.cut_off()                                 # from the internet; the test machine still reaches it

Nothing is left of it at the end. The image of each distribution is made once, from packages, and kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13", "noble": "Ubuntu 24.04"}
CLONE = "/opt/clone"
NETWORK, SUBNET = "appliance-test-boxes", "10.213.0.0/24"
_AUTHORITIES = Path("/usr/local/share/ca-certificates")

# As /sbin/init expects a machine to be: cgroups it may write, mounts that are shared, and loop devices.
_ENTRY = """\
#!/bin/sh
mount -o remount,rw /sys 2>/dev/null
for place in $(awk '$2 ~ "^/sys/fs/cgroup" {print $2}' /proc/mounts); do
    mount -o remount,rw,bind "$place" 2>/dev/null || mount -o remount,rw "$place" 2>/dev/null
done
mount --make-rshared /
[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
for number in $(seq 0 31); do [ -e /dev/loop$number ] || mknod /dev/loop$number b 7 $number; done
cp /etc/box-resolv.conf /etc/resolv.conf
ssh-keygen -A
exec /sbin/init
"""
_DOCKERFILE = """\
ARG BASE
FROM ${BASE}
COPY host-authorities/ /usr/local/share/ca-certificates/
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        systemd systemd-sysv dbus udev kmod iproute2 procps sudo python3 openssh-server ca-certificates netbase \\
 && update-ca-certificates && apt-get clean && : > /etc/machine-id && rm -f /etc/ssh/ssh_host_* \\
 && systemctl mask systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket \\
        systemd-udevd-control.socket getty.target console-getty.service getty@.service systemd-firstboot.service \\
        sys-kernel-debug.mount sys-kernel-tracing.mount systemd-modules-load.service systemd-resolved.service \\
        apt-daily.timer apt-daily-upgrade.timer \\
 && systemctl set-default multi-user.target
COPY box-entry /box-entry
STOPSIGNAL SIGRTMIN+3
CMD ["/box-entry"]
"""


class FreshBox:
    """suite: one of SUITES. memory: of the whole box, like "8g"; "" is all there is."""

    def __init__(self, suite: str, *, memory: str = "") -> None:
        self.suite, self._memory = suite, memory
        self.name = f"appliance-test-{suite}-{secrets.token_hex(3)}"
        self._folder = tempfile.TemporaryDirectory(prefix="appliance-box-")

    def __enter__(self) -> FreshBox:
        image = ensure_systemd_image(self.suite)
        _ensure_network()
        try:
            _docker(
                "run", "--detach", "--name", self.name, "--hostname", "box", "--network", NETWORK,
                "--restart", "unless-stopped", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
                "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
                "--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm", "--cgroupns=private",
                "--device", "/dev/fuse", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec",
                *(["--memory", self._memory] if self._memory else []),
                # no file system of its own kind may lie below an engine's or a loop file's
                "--volume", "/var/lib/docker", "--volume", "/var/lib/containerd", "--volume", "/var/lib/appliance-loop",
                # what the host resolves with: the engine's own resolver on loopback is none for a nested engine
                "--volume", "/etc/resolv.conf:/etc/box-resolv.conf:ro", image)
            self._wait_booted()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None and (keep := os.environ.get("APPLIANCE_KEEP_BOX")):
            print(f"{self.name} was kept, because APPLIANCE_KEEP_BOX={keep}.")
            return
        self.close()

    def close(self) -> None:
        """Remove it, with its mounts and loop devices. Idempotent."""
        with contextlib.suppress(subprocess.SubprocessError):
            # a file system on a loop device outlives the container that mounted it unless it is let go in good order
            self.run("systemctl stop docker.socket docker containerd 2>/dev/null; pkill -9 containerd-shim; sleep 0.2; "
                     "findmnt -rnt btrfs,ext4,xfs -o TARGET,SOURCE | awk '$2 ~ \"/dev/loop\" {print $1}' | "
                     "while read place; do umount -l $place; done", check=False, timeout_s=60)
        _docker("rm", "--force", "--volumes", self.name, check=False)
        self._folder.cleanup()

    # -- doing things in it -------------------------------------------------------------------------------------------
    def run(self, script: str, *, timeout_s: float = 120, check: bool = True, stdin: bytes | str | None = None,
            env: dict[str, str] | None = None) -> str:
        """Run a shell script as root; return what it prints on both streams, which an error shows too."""
        words = ["exec", "--interactive", *(w for k, v in (env or {}).items() for w in ("--env", f"{k}={v}")), self.name,
                 "bash", "-o", "pipefail", "-c", script]
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(["docker", *words], input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL if data is None else None, timeout=timeout_s, check=False)
        text = done.stdout.decode(errors="replace")
        assert not check or done.returncode == 0, f"{self.name}: {script}\nended with {done.returncode}:\n{text[-8000:]}"
        return text

    def start(self, script: str, log: str) -> None:
        """Run a script in the background; its output and “ended with STATUS” go to the file `log`."""
        whole = f"({script}) >{shlex.quote(log)} 2>&1; echo ended with $? >>{shlex.quote(log)}"
        _docker("exec", "--detach", self.name, "bash", "-c", whole)

    def read(self, path: str) -> str:
        return self.run(f"cat {shlex.quote(path)}")

    def write(self, path: str, content: str | bytes, mode: str = "0644") -> None:
        at = shlex.quote(path)
        self.run(f"mkdir -p $(dirname {at}) && cat > {at} && chmod {mode} {at}",
                 stdin=content.encode() if isinstance(content, str) else content)

    def exists(self, path: str) -> bool:
        return self.run(f"test -e {shlex.quote(path)} && echo yes || true").strip() == "yes"

    def copy_in(self, source: Path, target: str) -> None:
        _docker("cp", str(source), f"{self.name}:{target}", timeout_s=600)

    def copy_out(self, source: str, target: Path) -> None:
        _docker("cp", f"{self.name}:{source}", str(target), timeout_s=600)

    def clone(self, target: str = CLONE) -> None:
        """Put the repository there as it is on the disk now, without what git ignores."""
        names = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True, stdout=subprocess.PIPE).stdout
        there = b"\0".join(name for name in names.split(b"\0") if name and os.path.lexists(REPOSITORY / os.fsdecode(name)))
        tar = subprocess.run(["tar", "-C", REPOSITORY, "--null", "--no-recursion", "-T", "-", "-c", "-f", "-"], input=there,
                             check=True, stdout=subprocess.PIPE).stdout
        self.run(f"mkdir -p {target} && tar -x -f - -C {target}", stdin=tar)

    def load_images(self, names: Iterable[str]) -> None:
        """Give the box's own engine images of the test machine's; the box needs a running engine."""
        with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE) as save:
            subprocess.run(["docker", "exec", "--interactive", self.name, "docker", "load", "--quiet"], stdin=save.stdout,
                           check=True, stdout=subprocess.DEVNULL, timeout=600)

    # -- the machine --------------------------------------------------------------------------------------------------
    @property
    def address(self) -> str:
        return _docker("inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}', self.name)

    def reboot(self) -> float:
        """Return the seconds until systemd is up again."""
        began, before = time.monotonic(), self._started_at()
        self.run("systemctl reboot --no-wall", check=False)
        while self._started_at() == before:
            assert time.monotonic() - began < 120, f"{self.name} does not go down"
            time.sleep(0.1)
        self._wait_booted()
        return time.monotonic() - began

    def power_off_hard(self) -> None:
        """As if the plug was pulled; `power_on` starts it again."""
        _docker("kill", "--signal", "KILL", self.name)

    def power_on(self) -> None:
        _docker("start", self.name)
        self._wait_booted()

    def cut_off(self) -> None:
        """Cut it off from every network but the test machine's own bridge, and from names."""
        self.run("ip route del default; echo 'nameserver 192.0.2.1' > /etc/resolv.conf")

    @cached_property
    def ssh_options(self) -> list[str]:
        """Options for ssh and Ansible's ssh_args; root may come in with a key that is made for this box alone."""
        key = Path(self._folder.name) / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), "0600")
        self.run("systemctl start ssh")
        return ["-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]

    def _started_at(self) -> str:
        return _docker("inspect", "--format", "{{.State.StartedAt}}{{.State.Running}}", self.name)

    def _wait_booted(self) -> None:
        end = time.monotonic() + 90
        state = ""
        while state not in ("running", "degraded"):
            assert time.monotonic() < end, f"{self.name} does not boot ({state}): {_docker('logs', self.name, check=False)}"
            time.sleep(0.1)
            state = self.run("systemctl is-system-running 2>/dev/null", check=False).strip()


# ---------------------------------------------------------------------------------------------------------- its images --
def ensure_systemd_image(suite: str) -> str:
    """Return the image of a distribution with systemd and sshd, made from packages if it is not there."""
    authorities = sorted(_AUTHORITIES.glob("*.crt")) if _AUTHORITIES.is_dir() else []
    known = hashlib.sha256(b"\0".join([_ENTRY.encode(), _DOCKERFILE.encode(), *(a.read_bytes() for a in authorities)]))
    tag = f"appliance-test/systemd-{suite}:{known.hexdigest()[:12]}"
    if _docker("image", "inspect", tag, check=False, quiet=True):
        return tag
    with tempfile.TemporaryDirectory() as context:
        folder = Path(context)
        (folder / "Dockerfile").write_text(_DOCKERFILE)
        (folder / "box-entry").write_text(_ENTRY)
        (folder / "box-entry").chmod(0o755)
        (folder / "host-authorities").mkdir()
        for authority in authorities:
            (folder / "host-authorities" / authority.name).write_bytes(authority.read_bytes())
        _docker("build", "--quiet", "--build-arg", f"BASE={ensure_bare_image(suite)}", "--tag", tag, context, timeout_s=900,
                env={**os.environ, "DOCKER_BUILDKIT": "0"})
    return tag


def ensure_bare_image(suite: str) -> str:
    """Return the image of a distribution as a minimal install leaves it, without an init."""
    tag = f"appliance-test/box-{suite}"
    if _docker("image", "inspect", tag, check=False, quiet=True):
        return tag
    with tempfile.TemporaryDirectory() as folder:
        options = []
        if suite == "noble":
            # Debian 12 has no package with Ubuntu's key; the Debian of our base image has.
            keyring = Path(folder) / "ubuntu.gpg"
            keyring.write_bytes(subprocess.run(
                ["docker", "run", "--rm", "appliance/base:latest", "sh", "-ec",
                 "{ apt-get update; apt-get install -y --no-install-recommends ubuntu-keyring; } >&2; "
                 "cat /usr/share/keyrings/ubuntu-archive-keyring.gpg"],
                check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300).stdout)
            options = [f"--keyring={keyring}", "--components=main,universe"]
        tar = f"{folder}/box.tar"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--include=apt,ca-certificates", *options, suite, tar],
                       check=True, timeout=900, stdout=subprocess.DEVNULL)
        _docker("import", tar, tag, timeout_s=300)
    return tag


def _ensure_network() -> None:
    if not _docker("network", "inspect", NETWORK, check=False, quiet=True):
        _docker("network", "create", "--subnet", SUBNET, NETWORK, check=False)


def _docker(*words: str, check: bool = True, timeout_s: float = 120, quiet: bool = False,
            env: dict[str, str] | None = None) -> str:
    done = subprocess.run(["docker", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, text=True,
                          stdin=subprocess.DEVNULL, env=env, check=False)
    if quiet and done.returncode:
        return ""
    assert not check or done.returncode == 0, f"docker {' '.join(words[:3])}: {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout.strip()
