"""A bare box, a fresh clone, one command, and a student in JupyterLab; then the same command again.

The boxes are containers with an engine of their own. The first run of each makes the box's image from packages.
"""

import re
import subprocess
import time
from pathlib import Path

import pytest
from fresh_box import ensure_bare_image

CLONE = Path(__file__).parents[2]
AUTHORITIES = "/usr/local/share/ca-certificates"
PASSWORD = "three words suffice"
pytestmark = pytest.mark.long


def run(*words, stdin=None, timeout_s=120, **options):
    return subprocess.run(words, check=True, input=stdin, stdout=subprocess.PIPE, timeout=timeout_s, **options).stdout


@pytest.fixture(params=["bookworm", "trixie", "noble"])
def box(request):
    """The name of a running bare box with a clone in /opt/clone."""
    image, name = ensure_bare_image(request.param), f"appliance-test-box-{request.param}"
    subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)
    run("docker", "run", "--detach", "--name", name, "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
        "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
        "--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm", "--cgroupns=private",
        "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec",
        "--volume", "/var/lib/docker", "--volume", "/var/lib/containerd", image, "sleep", "infinity")
    try:
        if Path(AUTHORITIES).is_dir():
            run("docker", "cp", f"{AUTHORITIES}/.", f"{name}:{AUTHORITIES}/")
        inside(name, "update-ca-certificates; mkdir -p /opt/clone; mount -o remount,rw /sys; "
                     "for mount in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,rw,bind $mount || true; done")
        run("docker", "exec", "--interactive", name, "tar", "-x", "-C", "/opt/clone",
            stdin=run("git", "-c", f"safe.directory={CLONE}", "-C", CLONE, "archive", "HEAD"))
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)


def inside(box, script, **options):
    return run("docker", "exec", box, "sh", "-ec", script, stderr=subprocess.STDOUT, **options).decode()


def bootstrapped(box, log, timeout_s):
    """Run ./bootstrap in the box; return its URL, its output and the seconds it took until the Hub was ready."""
    began = time.monotonic()
    run("docker", "exec", "--detach", "--env", f"APPLIANCE_ADMIN_PASSWORD={PASSWORD}", box,
        "sh", "-c", f"/opt/clone/bootstrap >{log} 2>&1; echo It ended with $? >>{log}")
    while time.monotonic() - began < timeout_s:
        output = inside(box, f"cat {log} 2>/dev/null || true")
        if address := re.search(r"(http://[\w.:-]+)/\s", output):
            return address[1], output, time.monotonic() - began
        assert "It ended with" not in output, output
        time.sleep(0.3)
    raise AssertionError(output)


def test_a_bare_box_becomes_a_classroom(box):
    address, output, took_s = bootstrapped(box, "/var/log/first.log", 900)
    print(output, f"{took_s:.0f} s", sep="\n")
    assert PASSWORD not in output
    run("docker", "cp", str(Path(__file__).with_name("first_student.py")), f"{box}:/opt/first_student.py")
    assert f"{address}/user/admin/lab" in inside(box, f"python3 /opt/first_student.py {address} admin '{PASSWORD}'")

    # Ended and run again: nothing is installed, nobody's server stops.
    before = inside(box, "docker ps --quiet --filter status=running --no-trunc")
    assert before
    inside(box, "kill -INT $(python3 -c 'import json; print(json.load(open(\"/opt/clone/state/hub.json\"))[\"pid\"])')")
    for _ in range(100):
        if "It ended with" in inside(box, "cat /var/log/first.log"):
            break
        time.sleep(0.1)
    _, output, took_s = bootstrapped(box, "/var/log/second.log", 60)
    print(output, f"{took_s:.1f} s", sep="\n")
    assert "Installing" not in output
    assert took_s < 15
    assert inside(box, "docker ps --quiet --filter status=running --no-trunc") == before
