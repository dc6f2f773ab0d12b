#!/usr/bin/env python3
"""What the notebook image costs as plain JupyterLab and as jupyterhub-singleuser: time to /lab, CPU until then, memory.

Both programs from one image, in alternating pairs, after one unmeasured start of each. A stub answers for the Hub at once.
Build first: docker build --network host -t appliance/bench-singleuser bench/images/singleuser
"""
import argparse
import http.client
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
from image_start import PREFIX, TOKEN, summary

SCOPES = ["access:servers!server=x/", "access:servers!user=x"]
CONNECT_S = 0.1
SETTLE_S = 3.0                # from the first page until memory is read: what is loaded late is loaded


class StubHub(BaseHTTPRequestHandler):
    """Knows one user, x, by every token."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer({"kind": "user", "name": "x", "admin": False, "groups": [], "scopes": SCOPES, "version": "6.1.1"})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _answer(self, body):
        said = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *words):
        pass


@dataclass
class Start:
    ready_s: float
    cpu_s: float
    memory_mb: float


def environment(singleuser, hub):
    """What the Hub gives a server; as plain Lab it gets the edge's token, as singleuser it asks the Hub."""
    said = {"JUPYTERHUB_SERVICE_PREFIX": PREFIX, "JUPYTERHUB_USER": "x", "JUPYTERHUB_BASE_URL": "/", "HOME": "/home/jovyan"}
    if not singleuser:
        return said | {"JUPYTER_TOKEN": TOKEN}
    return said | {
        "JUPYTERHUB_API_URL": f"{hub}/hub/api", "JUPYTERHUB_API_TOKEN": TOKEN, "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-x",
        "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:8888{PREFIX}", "JUPYTERHUB_SERVER_NAME": "", "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_ACTIVITY_URL": f"{hub}/hub/api/users/x/activity", "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps(SCOPES)}


def measure(client, image, singleuser, hub, timeout_s=60):
    """Start one container, wait for Lab's page, read what it took, remove it."""
    command = ["/opt/jupyter/bin/python", "-s", "/opt/jupyter/bin/jupyterhub-singleuser"] if singleuser else None
    began = time.perf_counter()
    container = client.containers.create(
        image, command, init=True, user="1000:1000", cap_drop=["ALL"], security_opt=["no-new-privileges"],
        environment=environment(singleuser, hub))
    try:
        container.start()
        container.reload()
        address = next(iter(container.attrs["NetworkSettings"]["Networks"].values()))["IPAddress"]
        while True:
            try:
                # short: a connection asked for before the container's port is up is only repeated after a second
                connection = http.client.HTTPConnection(address, 8888, timeout=CONNECT_S)
                connection.connect()
                connection.sock.settimeout(timeout_s)
                connection.request("GET", f"{PREFIX}lab", headers={"Authorization": f"token {TOKEN}"})
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.01)
            if time.perf_counter() - began > timeout_s:
                raise SystemExit(f"{image} was not ready after {timeout_s} s:\n{container.logs(tail=20).decode()}")
        ready_s = time.perf_counter() - began
        cpu_s = container.stats(stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        time.sleep(SETTLE_S)
        pids = [int(row[1]) for row in container.top()["Processes"]]
        return Start(ready_s, cpu_s, sum(map(pss_mb, pids)))
    finally:
        container.remove(force=True)


def pss_mb(pid):
    """A process's memory, shared pages divided among those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--image", default="appliance/bench-singleuser:latest")
    args = parser.parse_args()
    client = docker.from_env()
    gateway = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    with ThreadingHTTPServer((gateway, 0), StubHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = f"http://{gateway}:{server.server_port}"
        for singleuser in (False, True):
            measure(client, args.image, singleuser, hub)
        pairs = []
        for number in range(args.pairs):
            # Whoever goes first changes from pair to pair, so a drift of the machine favours neither.
            order = (False, True) if number % 2 == 0 else (True, False)
            pair = {singleuser: measure(client, args.image, singleuser, hub) for singleuser in order}
            pairs.append((pair[False], pair[True]))
        server.shutdown()
    for what, unit, read in (("ready", " s", lambda s: s.ready_s), ("CPU until ready", " s", lambda s: s.cpu_s),
                             ("memory (PSS)", " MB", lambda s: s.memory_mb)):
        print(summary(f"{what}, plain Lab", [read(plain) for plain, _ in pairs], unit))
        print(summary(f"{what}, singleuser", [read(single) for _, single in pairs], unit))
        print(summary(f"{what}, difference", [read(single) - read(plain) for plain, single in pairs], unit))


if __name__ == "__main__":
    main()
