"""Restarts the engine for settings that a reload does not take over, unless that could end somebody's work."""

import json
import os
import subprocess
import sys
import time

# Of this boot only: whatever restarts the machine restarts the engine.
DUE = "/run/appliance/engine-restart-due"


def run(*words):
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def info():
    done = run("docker", "info", "--format", "{{json .}}")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def main():
    run("systemctl", "daemon-reload")
    if run("systemctl", "is-active", "--quiet", "docker.service").returncode:
        return
    for _ in range(50):  # the reload before is taken over a moment later
        if info().get("LiveRestoreEnabled"):
            break
        time.sleep(0.1)
    servers = run("docker", "ps", "--quiet", "--filter", "label=org.appliance.namespace").stdout.split()
    running = run("docker", "ps", "--quiet").stdout.split()
    if servers or (running and not info().get("LiveRestoreEnabled")):
        os.makedirs(os.path.dirname(DUE), exist_ok=True)
        with open(DUE, "w", encoding="utf-8"):
            pass
        print(f"Some of the engine's new settings count only after its restart, which was left out because "
              f"{'servers' if servers else 'containers'} run. When none does, "
              "run the playbook again.")
        return
    done = run("systemctl", "restart", "docker.service")
    if done.returncode:
        sys.exit(f"The engine did not start again: {done.stderr.decode(errors='replace').strip()}. "
                 "See: journalctl -u docker")
    if os.path.exists(DUE):
        os.unlink(DUE)
    print("The engine was restarted; no server was running.")


main()
