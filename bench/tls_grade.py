"""The grade a scanner gives the box's TLS: Debian's testssl.sh, against the real edge, with an authority that it is told of.

    .venv/bin/python bench/tls_grade.py [--testssl PATH]

The rating came with testssl.sh 3.2 (Debian 13's package, which also runs on Debian 12). Rated as browsers see it that
trust the root: with a certificate from files, with HSTS as it is by default and as long as the scanner wants it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "proxies")]

from proxy_box import free_port, make_proxy  # noqa: E402

from appliance.proxies.certificates import ensure_leaf  # noqa: E402
from appliance.testing.proxies import TinyServer  # noqa: E402

HALF_A_YEAR_S = 180 * 24 * 3600
MODES = (
    ("selfsigned", {"tls": "selfsigned", "tls_names": ("localhost",)}),
    ("files, HSTS by default", {}),
    ("files, HSTS of half a year", {"hsts_seconds": HALF_A_YEAR_S}),
)
RATED = ("rating_spec", "protocol_support_score", "key_exchange_score", "cipher_strength_score", "final_score", "overall_grade")


async def scan(testssl: str, folder: Path, options: dict[str, object]) -> list[dict[str, str]]:
    async with TinyServer("hub") as hub:
        proxy = make_proxy(folder, free_port(), hub.url)
        proxy.http_port, root = free_port(), folder / "tls" / "ca.crt"
        if "tls" not in options:
            pair, _ = ensure_leaf(folder / "given", ("localhost",))
            proxy.ssl_cert, proxy.ssl_key, root = str(pair.certificate), str(pair.key), folder / "given" / "ca.crt"
        for name, value in options.items():
            setattr(proxy, name, value)
        await proxy.start()
        try:
            said = folder / "said.json"
            process = await asyncio.create_subprocess_exec(
                testssl, "--quiet", "--color", "0", "--warnings", "batch", "--ip", "127.0.0.1", "--nodns", "min",
                "--add-ca", str(root), "--jsonfile", str(said), f"localhost:{proxy.bind_port}",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
            await process.wait()
            return list(json.loads(said.read_text()))
        finally:
            await proxy.stop()


def findings(said: list[dict[str, str]]) -> Iterator[str]:
    for entry in said:
        if entry["id"].startswith(("grade_cap_reason", *RATED)):
            yield f"  {entry['id']}: {entry['finding']}"
        elif entry["severity"] not in ("OK", "INFO", "DEBUG"):
            yield f"  {entry['severity'].lower()}: {entry['id']}: {entry['finding'][:160]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--testssl", default=shutil.which("testssl") or "testssl", help="of version 3.2 or later")
    parsed = parser.parse_args()
    for title, options in MODES:
        with tempfile.TemporaryDirectory() as folder:
            print(title, flush=True)
            print("\n".join(findings(asyncio.run(scan(parsed.testssl, Path(folder), options)))), flush=True)


if __name__ == "__main__":
    main()
