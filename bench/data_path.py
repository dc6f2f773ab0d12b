"""Requests per second through Traefik with the capability, over the same Traefik without any check.

    python bench/data_path.py [--pairs 7] [--seconds 4] [--connections 32]

Needs wrk. The load alternates between three routers to one and the same trivial server: `capability` is the route as the
Hub writes it; `open` has the same middlewares and checks nothing but the path; `bare` has no middlewares either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from appliance.domain.capability import Capability, cookie_name
from appliance.domain.route import Route
from appliance.proxies.traefik import TraefikProxy

SERVER = """
import asyncio, sys, uvloop
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: 3\\r\\n\\r\\nhi\\n"
class Trivial(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):  # requests without a body, one at a time
        self.transport.write(ANSWER)
async def serve():
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()
uvloop.run(serve())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def trivial_server(port: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def requests_per_second(url: str, cookie: str, seconds: int, connections: int) -> float:
    printed = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Cookie: {cookie}", url],
        check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise SystemExit(f"Some requests failed:\n{printed}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert found, printed
    return float(found[1])


def write_unchecked(proxy: TraefikProxy, route: Route) -> None:
    """Add the two routers to compare with; nobody supervises the folder here."""
    routes = proxy.state_dir / "traefik" / "routes"
    written = json.loads((routes / f"{route.server_id}.yml").read_text())["http"]["routers"]
    ours = next(router for name, router in written.items() if name.startswith("cookie-"))
    (routes / "unchecked.yml").write_text(json.dumps({"http": {"routers": {
        "open": {**ours, "rule": "PathPrefix(`/open/`)"},
        "bare": {**ours, "rule": "PathPrefix(`/bare/`)", "middlewares": []},
    }}}))


async def measure(pairs: int, seconds: int, connections: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server, proxy = free_port(), TraefikProxy()
        proxy.state_dir, proxy.bind_ip, proxy.bind_port = Path(folder), "127.0.0.1", free_port()
        value = Capability("abcdefghijklmnopqrst", "k3f9k3f9k3f9", 1).value(b"k" * 32)
        route = Route("k3f9k3f9k3f9", 1, "/user/alice/", f"http://127.0.0.1:{server}", (value,),
                      (f"http://127.0.0.1:{proxy.bind_port}",), "a-token-of-the-server")
        # as a browser sends it: Jupyter's own cookies come first
        cookie = f"_xsrf=2|8f3c2a71|0f2b3c4d5e6f708192a3b4c5d6e7f809|1790000000; {cookie_name(route.server_id)}={value}"
        results: dict[str, list[float]] = {"capability": [], "open": [], "bare": []}
        paths = {"capability": "user/alice", "open": "open", "bare": "bare"}
        with trivial_server(server):
            try:
                await proxy.start()
                await proxy.add(route)
                await proxy.wait_live(route.server_id)
                write_unchecked(proxy, route)
                await asyncio.sleep(1)
                for number in range(-1, pairs):  # the first round only warms up
                    order = list(paths) if number % 2 else list(reversed(paths))
                    for name in order:
                        url = f"http://127.0.0.1:{proxy.bind_port}/{paths[name]}/api/status"
                        rate = await asyncio.to_thread(requests_per_second, url, cookie, seconds, connections)
                        if number >= 0:
                            results[name].append(rate)
                    if number >= 0:
                        print("  ".join(f"{name} {rates[-1]:7.0f}/s" for name, rates in results.items()), flush=True)
            finally:
                await proxy.stop()
    for other in ("open", "bare"):
        ratios = [ours / theirs for ours, theirs in zip(results["capability"], results[other], strict=True)]
        print(f"capability / {other}: {median(ratios):.3f} [{min(ratios):.3f}-{max(ratios):.3f}], {len(ratios)} pairs, "
              f"{median(results['capability']):.0f}/s over {median(results[other]):.0f}/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    asyncio.run(measure(options.pairs, options.seconds, options.connections))
