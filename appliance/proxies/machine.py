"""What the proxy asks of the machine: ports, private files, certificates, programs."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import subprocess
from pathlib import Path

from appliance.errors import Misconfigured
from appliance.proxies.traefik_files import listen_address


def write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f".new-{path.name}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)


def check_certificate(certificate: str, key: str) -> None:
    if not (certificate or key):
        return
    if not (certificate and key):
        raise Misconfigured("HTTPS needs both --ssl-cert and --ssl-key.")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"The certificate {certificate} cannot be used with the key {key}: {error}.",
            action="Give a certificate and its key in PEM format, readable for the Hub.") from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def why_not_bind(ip: str, port: int) -> str:
    """Return a sentence that says why nothing can listen there, "" if it can."""
    family = socket.AF_INET6 if ":" in ip or not ip else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((ip, port))
            probe.listen(1)
        return ""
    except OSError as error:
        where = listen_address(ip, port) if ip else f"port {port}"
        if error.errno == errno.EADDRINUSE:
            _, listener = await run_program("ss", "-Hltnp", "sport", "=", f":{port}")
            users = listener.partition("users:((")[2].partition("))")[0].replace('"', "")
            return f"Something else already listens on {where}{f' ({users})' if users else ''}."
        if error.errno == errno.EACCES:
            return f"Only root may listen on {where}."
        return f"Nothing can listen on {where}: {error.strerror}."


async def run_program(*command: str) -> tuple[int, str]:
    """Run a program and return (status, what it printed); (127, "") if it is missing."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError:
        return 127, ""
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode(errors="replace")
