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


def write_private(
    path: Path, text: str, *, encoding: str = "utf-8", group: int | None = None, via: Path | None = None,
) -> None:
    """Write a file whole or not at all, for its owner alone; with `group`, that one may read it. via: the temporary name,
    where one beside the file would be read."""
    temporary = via or path.with_name(f".new-{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding=encoding) as file:
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, 0o600 if group is None else 0o640)
        file.write(text)
    os.replace(temporary, path)


def has_group(found: os.stat_result, group: int | None) -> bool:
    """Say whether a file can be read by its owner and the group alone; without a group anything of ours will do."""
    return group is None or (found.st_mode & 0o777, found.st_gid) == (0o640, group)


def give_to_group(path: Path, group: int) -> None:
    """Let a group read a file that is there."""
    if not has_group(path.lstat(), group):
        os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(0o640)


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


async def who_listens(port: int) -> str:
    """Return a sentence if somebody listens on a port of this machine, "" if nobody does."""
    _, listeners = await run_program("ss", "-Hltn", "sport", "=", f":{port}")
    return f"Something else already listens on port {port}." if listeners.strip() else ""


async def run_program(*command: str) -> tuple[int, str]:
    """Run a program and return (status, what it printed); (127, "") if it is missing."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError:
        return 127, ""
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode(errors="replace")
