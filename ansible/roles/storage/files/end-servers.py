#!/usr/bin/python3 -I
"""Ends all students' servers while the machine goes down, and at no other time. Run by appliance-servers.service.

With live-restore the engine leaves them running when it stops; a frozen one hears no signal, and one that is deaf to it would
hold a reboot for a minute and a half. The engine is down already, so nobody takes their end for a failure: the Hub starts
them again after the reboot. Works on control groups v1 and v2, also below folders that a nested engine made.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

GRACE_S = 8
SLICE = "appliance.slice"
# v1: one tree for processes and one for freezing; v2: one for everything
TREES = (f"/sys/fs/cgroup/{SLICE}", f"/sys/fs/cgroup/memory/{SLICE}", f"/sys/fs/cgroup/pids/{SLICE}")
FREEZERS = ((f"/sys/fs/cgroup/freezer/{SLICE}", "freezer.state", "THAWED"), (f"/sys/fs/cgroup/{SLICE}", "cgroup.freeze", "0"))


def thaw():
    for tree, name, word in FREEZERS:
        for folder, _, files in os.walk(tree):
            if name in files:
                with contextlib.suppress(OSError), open(os.path.join(folder, name), "w", encoding="ascii") as file:
                    file.write(word)


def processes():
    found = set()
    for tree in TREES:
        for folder, _, files in os.walk(tree):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError), open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
                    found.update(int(line) for line in file)
    return found - {0}


def send(number):
    for process in processes():
        with contextlib.suppress(OSError):
            os.kill(process, number)


def main():
    state = subprocess.run(["systemctl", "is-system-running"], stdout=subprocess.PIPE, check=False).stdout.decode().strip()
    if state != "stopping":
        print(f"The machine is {state} and does not go down: servers go on.")
        return
    thaw()
    send(signal.SIGTERM)
    end = time.monotonic() + GRACE_S
    while processes() and time.monotonic() < end:
        time.sleep(0.1)
    send(signal.SIGKILL)
    end = time.monotonic() + 5
    while processes() and time.monotonic() < end:
        time.sleep(0.05)
    sys.exit(bool(processes()))


main()
