#!/usr/bin/env python3
"""How long an image takes from `docker create` to the first 200 of /user/x/lab, ours over a plain one.

Alternating pairs in one run, after one unmeasured start of each so that both find their files in the page cache.
Build first: images/build && docker build -t appliance/bench-plain bench/images/plain
"""
import argparse
import http.client
import statistics
import time

import docker

PREFIX, TOKEN = "/user/x/", "bench-token"
PLAIN_COMMAND = f"jupyter lab --ip=0.0.0.0 --no-browser --ServerApp.base_url={PREFIX}"


def seconds_to_ready(client, image, command, timeout_s=60):
    """Start one container of `image`, wait for Lab's page, remove it."""
    began = time.perf_counter()
    container = client.containers.create(
        image, command, init=True, user="1000:1000", cap_drop=["ALL"], security_opt=["no-new-privileges"],
        environment={"JUPYTERHUB_SERVICE_PREFIX": PREFIX, "JUPYTER_TOKEN": TOKEN, "HOME": "/home/jovyan"})
    try:
        container.start()
        container.reload()
        address = next(iter(container.attrs["NetworkSettings"]["Networks"].values()))["IPAddress"]
        while time.perf_counter() - began < timeout_s:
            try:
                connection = http.client.HTTPConnection(address, 8888, timeout=timeout_s)
                connection.request("GET", f"{PREFIX}lab", headers={"Authorization": f"token {TOKEN}"})
                if connection.getresponse().status == 200:
                    return time.perf_counter() - began
            except OSError:
                time.sleep(0.01)
        raise SystemExit(f"{image} was not ready after {timeout_s} s:\n{container.logs(tail=20).decode()}")
    finally:
        container.remove(force=True)


def summary(name, values, unit=" s"):
    median = statistics.median(values)
    return f"{name:<28} {median:6.3f}{unit}  [{min(values):.3f}-{max(values):.3f}]  n={len(values)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--ours", default="appliance/notebook:latest")
    parser.add_argument("--plain", default="appliance/bench-plain:latest")
    parser.add_argument("--plain-command", default=PLAIN_COMMAND)
    args = parser.parse_args()
    client = docker.from_env()
    sides = [(args.ours, None), (args.plain, args.plain_command)]
    for side in sides:
        seconds_to_ready(client, *side)
    ours, plain = [], []
    for number in range(args.pairs):
        # Whoever goes first changes from pair to pair, so a drift of the machine favours neither.
        order = [(ours, sides[0]), (plain, sides[1])]
        for times, side in order if number % 2 == 0 else reversed(order):
            times.append(seconds_to_ready(client, *side))
    print(summary(args.ours, ours))
    print(summary(args.plain, plain))
    print(summary("difference", [p - o for o, p in zip(ours, plain, strict=True)]))
    print(summary("ratio ours/plain", [o / p for o, p in zip(ours, plain, strict=True)], unit="  "))


if __name__ == "__main__":
    main()
