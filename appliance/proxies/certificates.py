"""The box's own small authority: a root that devices are told to trust once, and the certificate that browsers are shown.

The root is bound to this box by name constraints: with its key stolen, nobody can pass for a bank. Both are ECDSA P-256,
the one curve that everything understands.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.domain.hosts import LOOPBACK, clean_host, is_address
from appliance.proxies.machine import write_private

ROOT_LIFE = timedelta(days=3652)
LEAF_LIFE = timedelta(days=397)          # the most that Apple's and Google's programs take
RENEW_BEFORE = timedelta(days=30)
BACKDATED = timedelta(days=1)            # for devices whose clock is behind
# A box may move within them without a new root: names and networks that mean nothing outside a house.
_PRIVATE_NAMES = ("localhost", "local", "lan", "internal", "home.arpa", "test")
_PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16",
                     "fc00::/7", "fe80::/10", "::1/128")


@dataclass(frozen=True)
class Pair:
    """Files of a certificate with those that signed it, and of its key."""

    certificate: Path
    key: Path


def own_names(public_host: str = "") -> tuple[str, ...]:
    """Return what this machine may be called by its neighbours: public name, host name (also as mDNS has it), addresses."""
    host = clean_host(socket.gethostname())
    found = [clean_host(public_host), host, f"{host}.local" if host and "." not in host else "", *_own_addresses()]
    return tuple(dict.fromkeys(name for name in found if name and not name.startswith("localhost") and name not in LOOPBACK))


def ensure_leaf(folder: Path, names: Sequence[str]) -> tuple[Pair, list[str]]:
    """Return the certificate for `names` in `folder`, and a sentence for each thing that was made anew. Raises OSError.

    The key of the root stays in `folder`/ca.key, for root alone.
    """
    said: list[str] = []
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = tuple(dict.fromkeys((*names, *LOOPBACK)))
    authority = _load(folder, "ca")
    if authority is None or not _still_good(authority[0]) or not _permits(authority[0], wanted):
        replaced = authority is not None or (folder / "ca.crt").exists()
        authority = _make_root(folder, wanted)
        said.append(
            f"The box has {'another' if replaced else 'an'} authority of its own, {folder / 'ca.crt'}, SHA-256 "
            f"{fingerprint(folder / 'ca.crt')}. "
            + ("Devices have to be told to trust it again: names have changed, or the old one is at its end."
               if replaced else "The help page of the sign-in tells how devices are made to trust it."))
    leaf, pair = _load(folder, "box"), Pair(folder / "box.crt", folder / "box.key")
    if leaf is None or not _still_good(leaf[0]) or _names_of(leaf[0]) != set(wanted) or not _signed(leaf[0], authority[0]):
        _make_leaf(folder, authority, wanted)
        said.append(f"The box has a new certificate for {', '.join(names)}.")
    return pair, said


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 fingerprint of the first certificate in a file, as browsers show it."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    digest = found.fingerprint(hashes.SHA256()).hex().upper()
    return ":".join(digest[at:at + 2] for at in range(0, len(digest), 2))


def expires_at(certificate: Path) -> datetime:
    """Raises OSError, ValueError."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def life_of(certificate: Path) -> timedelta:
    """Raises OSError, ValueError."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return found.not_valid_after_utc - found.not_valid_before_utc


def names_in(certificate: Path) -> set[str]:
    """Raises OSError, ValueError."""
    return _names_of(x509.load_pem_x509_certificate(certificate.read_bytes()))


# -- made here ---------------------------------------------------------------------------------------------------------
_Owned = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _make_root(folder: Path, names: Sequence[str]) -> _Owned:
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    shown = next((name for name in names if name not in LOOPBACK), names[0])[:40]
    subject = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Classroom box"),
        # told apart from the root of an earlier installation of the same name
        x509.NameAttribute(NameOID.COMMON_NAME, f"Classroom box {shown} {secrets.token_hex(2)}")])
    certificate = (
        _builder(subject, subject, key.public_key(), now, now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=_permitted(names), excluded_subtrees=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256()))
    _write(folder, "ca", key, [certificate])
    return certificate, key


def _make_leaf(folder: Path, authority: _Owned, names: Sequence[str]) -> None:
    root, root_key = authority
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    ends_at = min(now - BACKDATED + LEAF_LIFE, root.not_valid_after_utc)
    certificate = (
        _builder(subject, root.subject, key.public_key(), now, ends_at)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256()))
    _write(folder, "box", key, [certificate, root])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime,
             ends_at: datetime) -> x509.CertificateBuilder:
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED).not_valid_after(ends_at))


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False)


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, chain: Iterable[x509.Certificate]) -> None:
    # the key first: a certificate without its key is made again, and nobody has seen it
    write_private(folder / f"{name}.key", key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode())
    write_private(folder / f"{name}.crt", "".join(
        certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in chain))
    os.chmod(folder / f"{name}.crt", 0o644)


# -- looked at ---------------------------------------------------------------------------------------------------------
def _load(folder: Path, name: str) -> _Owned | None:
    """Return what was made before, None if it is not there, damaged, or of two halves."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return certificate, key


def _still_good(certificate: x509.Certificate) -> bool:
    now = datetime.now(UTC)
    return certificate.not_valid_before_utc <= now and now + RENEW_BEFORE < certificate.not_valid_after_utc


def _signed(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except Exception:  # each way of not being signed raises another of the library's errors
        return False
    return True


def _names_of(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress))}


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def _permitted(names: Iterable[str]) -> list[x509.GeneralName]:
    own = [name for name in names if is_address(name)]
    dns = dict.fromkeys((*(name.removeprefix("*.") for name in names if name not in own), *_PRIVATE_NAMES))
    networks = dict.fromkeys((*_PRIVATE_NETWORKS, *(name for name in own if not _within(name, _PRIVATE_NETWORKS))))
    return [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_network(network)) for network in networks)]


def _permits(root: x509.Certificate, names: Iterable[str]) -> bool:
    try:
        permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        return False
    dns = [name.value for name in permitted if isinstance(name, x509.DNSName)]
    networks = [str(name.value) for name in permitted if isinstance(name, x509.IPAddress)]
    return all(_within(name, networks) if is_address(name) else any(
        name.removeprefix("*.") == base or name.endswith(f".{base}") for base in dns) for name in names)


def _within(address: str, networks: Iterable[str]) -> bool:
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network) for network in networks)


# -- this machine ------------------------------------------------------------------------------------------------------
def _own_addresses() -> list[str]:
    """Return the addresses that others may reach this machine by, IPv4 first; not those of bridges for containers."""
    interfaces = [name for _, name in socket.if_nameindex() if not _for_containers(name)]
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in interfaces:
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(sock.fileno(), 0x8915, struct.pack("256s", name[:15].encode()))  # SIOCGIFADDR
                found.append(socket.inet_ntoa(answer[20:24]))
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, *_, name = line.split()
            if name in interfaces:
                found.append(str(ipaddress.IPv6Address(bytes.fromhex(digits))))
    return [address for address in found if not ipaddress.ip_address(address).is_loopback
            and not ipaddress.ip_address(address).is_link_local]


def _for_containers(interface: str) -> bool:
    if not Path(f"/sys/class/net/{interface}/bridge").exists():
        return interface.startswith(("veth", "docker"))
    with suppress(OSError):  # a bridge that leads out is the machine's own
        routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
        return not any(route[0] == interface and route[1] == "00000000" for route in routes)
    return True


# -- what the proxy reads ----------------------------------------------------------------------------------------------
def copy_for_proxy(source: Pair, folder: Path, reader: int | None) -> Pair:
    """Return a copy of a pair under a name of its own, readable for the group `reader`. Raises OSError.

    Another pair gets another name, so Traefik can never read the old certificate with the new key, and a changed file of
    routes is all that makes it look. The copy before stays as long as there is no newer one.
    """
    certificate, key = source.certificate.read_bytes(), source.key.read_bytes()
    name = hashlib.sha256(certificate + b"\0" + key).hexdigest()[:12]
    pair = Pair(folder / f"box-{name}.crt", folder / f"box-{name}.key")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _hand_over(folder, 0o700 if reader is None else 0o750, reader)
    for path, content in ((pair.key, key), (pair.certificate, certificate)):
        if not path.exists() or path.read_bytes() != content:
            write_private(path, content.decode("latin-1"), encoding="latin-1")
        _hand_over(path, 0o600 if reader is None else 0o640, reader)
        os.utime(path)
    kept = {path.stem for path in sorted(folder.glob("box-*.crt"), key=lambda path: path.stat().st_mtime_ns)[-2:]}
    for path in folder.iterdir():
        if path.stem not in kept | {pair.key.stem}:
            path.unlink()
    return pair


def _hand_over(path: Path, mode: int, reader: int | None) -> None:
    if reader is not None and path.stat().st_gid != reader:
        os.chown(path, -1, reader)
    os.chmod(path, mode)
