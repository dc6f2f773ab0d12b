"""A real certificate authority that speaks ACME: Let's Encrypt's own test server, on the loopback address."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy_box import free_port

from appliance.proxies.certificates import ensure_leaf

MISSING = [program for program in ("pebble", "pebble-challtestsrv") if shutil.which(program) is None]


@dataclass
class Authority:
    folder: Path
    url: str
    ca_file: Path           # of its own server, not of the certificates it signs

    @property
    def log(self) -> str:
        return (self.folder / "pebble.log").read_text()

    def issued(self) -> int:
        return self.log.count("Issued certificate serial")


@asynccontextmanager
async def authority(folder: Path, http_port: int, *, dns: int, days: int = 90) -> AsyncIterator[Authority]:
    """dns: the port of the DNS it asks. days: how long its certificates live."""
    pair, _ = ensure_leaf(folder / "tls", ("localhost",))
    port = free_port()
    (folder / "pebble.json").write_text(json.dumps({"pebble": {
        "listenAddress": f"127.0.0.1:{port}", "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(pair.certificate), "privateKey": str(pair.key), "httpPort": http_port, "tlsPort": 1,
        "ocspResponderURL": "", "externalAccountBindingRequired": False,
        "certificateValidityPeriod": days * 24 * 3600}}))
    command = ("pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}")
    # else it waits up to 15 s before it looks, and refuses every twentieth message to see whether that is taken well
    async with running(folder / "pebble.log", *command, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0"):
        await listening(port)
        yield Authority(folder, f"https://127.0.0.1:{port}/dir", folder / "tls" / "ca.crt")


@dataclass
class Names:
    """The DNS that the authority asks: every name is this machine, until it is told otherwise."""

    port: int
    management: str


@asynccontextmanager
async def names(folder: Path) -> AsyncIterator[Names]:
    port, management = free_port(), free_port()
    command = ("pebble-challtestsrv", "-dns01", f"127.0.0.1:{port}", "-http01", "", "-https01", "", "-tlsalpn01", "",
               "-management", f"127.0.0.1:{management}", "-defaultIPv6", "")
    async with running(folder / "names.log", *command):
        await listening(management)
        yield Names(port, f"http://127.0.0.1:{management}")


@asynccontextmanager
async def running(log: Path, *command: str, **environment: str) -> AsyncIterator[None]:
    with open(log, "wb") as output:  # noqa: ASYNC230
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
