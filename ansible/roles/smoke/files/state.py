"""Prints a hash of what a passed test stands for: the release, the configuration, and the engine's version."""
import glob
import hashlib
import os
import subprocess
import sys

digest = hashlib.sha256(os.path.realpath("/opt/appliance/current").encode())
engine = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, check=False)
digest.update(engine.stdout)
for path in sorted([sys.argv[1] + "/appliance.env", *glob.glob(sys.argv[1] + "/config.d/*.py"),
                    *glob.glob(sys.argv[1] + "/tls/*"), "/etc/docker/daemon.json", *glob.glob("/etc/nftables.d/appliance*")]):
    if os.path.isfile(path):
        with open(path, "rb") as file:
            digest.update(path.encode() + b"\0" + file.read())
print(digest.hexdigest())
