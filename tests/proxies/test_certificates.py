"""The box's own authority: what it signs, for how long, and when it is made anew."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from appliance.domain.hosts import clean_host, is_address
from appliance.errors import Misconfigured
from appliance.proxies import certificates
from appliance.proxies.certificates import Pair, copy_for_proxy, ensure_leaf, fingerprint, own_names
from appliance.proxies.served import ServedCertificate

pytestmark = pytest.mark.unit

NAMES = ("box.school", "192.0.2.7")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def served(tmp_path: Path, **changes: object) -> ServedCertificate:
    options: dict[str, object] = {
        "made": tmp_path / "tls", "copies": tmp_path / "copies", "given": None, "obtained": None, "names": NAMES,
        "public_host": "", "reader": None, "log": logging.getLogger("test")}
    return ServedCertificate(**(options | changes))  # type: ignore[arg-type]


def test_a_certificate_is_for_the_names_and_signed_by_the_root(tmp_path: Path) -> None:
    pair, said = ensure_leaf(tmp_path, NAMES)
    root, leaf = load(tmp_path / "ca.crt"), load(pair.certificate)
    assert certificates.names_in(pair.certificate) == {*NAMES, "localhost", "127.0.0.1", "::1"}
    leaf.verify_directly_issued_by(root)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=397)
    assert datetime.now(UTC) + timedelta(days=3640) < root.not_valid_after_utc
    assert mode(tmp_path) == 0o700
    assert mode(tmp_path / "ca.key") == mode(pair.key) == 0o600
    assert fingerprint(tmp_path / "ca.crt") in said[0]
    assert pair.certificate.read_text().count("BEGIN CERTIFICATE") == 2, "browsers are sent the root's certificate as well"
    # the strictest of the clients there are
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(context, pair, "box.school") == ""
    assert handshake(context, pair, "192.0.2.7") == ""
    assert "match" in handshake(context, pair, "other.school")


def handshake(context: ssl.SSLContext, pair: Pair, name: str) -> str:
    """Return why a client refuses to speak to a server with this certificate, "" if it speaks."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(pair.certificate, pair.key)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = ours.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return ""


def test_the_root_signs_for_nobody_else(tmp_path: Path) -> None:
    """Whoever steals its key can pass for this box, but not for a bank."""
    ensure_leaf(tmp_path, NAMES)
    owned = certificates._load(tmp_path, "ca")
    assert owned is not None
    certificates._make_leaf(tmp_path, owned, ("bank.example",))
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    pair = Pair(tmp_path / "box.crt", tmp_path / "box.key")
    assert "permitted subtree violation" in handshake(context, pair, "bank.example")
    certificates._make_leaf(tmp_path, owned, ("www.box.school", "10.1.2.3", "box.local"))
    assert handshake(context, pair, "box.local") == ""


def test_nothing_is_made_anew_without_need(tmp_path: Path) -> None:
    ensure_leaf(tmp_path, NAMES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pair, said = ensure_leaf(tmp_path, NAMES)
    assert said == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # another address in the school's network: another certificate, nobody has to trust anything again
    _, said = ensure_leaf(tmp_path, ("box.school", "10.20.30.40"))
    assert len(said) == 1
    assert (tmp_path / "ca.crt").read_bytes() == before["ca.crt"]
    assert pair.certificate.read_bytes() != before["box.crt"]


def test_a_name_beyond_the_roots_limits_needs_another_root_and_says_so(tmp_path: Path) -> None:
    ensure_leaf(tmp_path, NAMES)
    before = (tmp_path / "ca.crt").read_bytes()
    _, said = ensure_leaf(tmp_path, ("other.school",))
    assert (tmp_path / "ca.crt").read_bytes() != before
    assert "trust it again" in said[0]


@pytest.mark.parametrize("days", [1, 29])
def test_it_is_renewed_when_less_than_thirty_days_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int,
) -> None:
    monkeypatch.setattr(certificates, "LEAF_LIFE", timedelta(days=days + 1))
    pair, _ = ensure_leaf(tmp_path, NAMES)
    root, old = load(tmp_path / "ca.crt"), load(pair.certificate)
    monkeypatch.undo()
    ensure_leaf(tmp_path, NAMES)
    assert load(pair.certificate).not_valid_after_utc > old.not_valid_after_utc + timedelta(days=360)
    assert load(tmp_path / "ca.crt") == root


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "box.crt", "box.key"])
@pytest.mark.parametrize("text", [None, "broken"])
def test_what_is_missing_or_damaged_is_made_anew(tmp_path: Path, name: str, text: str | None) -> None:
    ensure_leaf(tmp_path, NAMES)
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    pair, said = ensure_leaf(tmp_path, NAMES)
    assert said
    assert handshake(ssl.create_default_context(cafile=str(tmp_path / "ca.crt")), pair, "box.school") == ""


def test_this_machine_has_a_name_and_no_loopback_among_its_own() -> None:
    names = own_names("Box.School")
    assert names[0] == "box.school"
    assert not {"localhost", "127.0.0.1", "::1"} & set(names)
    assert all(clean_host(name) == name for name in names)


@pytest.mark.parametrize(("said", "clean"), [
    ("Box.School.", "box.school"), ("[2001:DB8::1]", "2001:db8::1"), ("*.box.school", "*.box.school"),
    ("bücher.school", "xn--bcher-kva.school"), ("192.0.2.7", "192.0.2.7"), ("box", "box"),
    ("", ""), ("a b", ""), ("a..b", ""), ("-a.b", ""), ("192.0.2.700", ""), ("https://box.school", ""), ("box:443", ""),
    ("a`b", ""), ("*.*.b", ""), ("b.*", ""), (f"{'a' * 64}.b", ""), ("a\n", "a"),
])
def test_names_are_those_of_certificates(said: str, clean: str) -> None:
    assert clean_host(said) == clean


def test_what_is_an_address() -> None:
    assert is_address("192.0.2.7")
    assert is_address("::1")
    assert not is_address("box.school")


# -- what is shown -----------------------------------------------------------------------------------------------------
def test_another_pair_has_another_name_and_the_one_before_stays(tmp_path: Path) -> None:
    pair, _ = ensure_leaf(tmp_path / "tls", NAMES)
    copies = [copy_for_proxy(pair, tmp_path / "copies", None)]
    assert copy_for_proxy(pair, tmp_path / "copies", None) == copies[0]
    for name in ("one.box.school", "two.box.school"):
        ensure_leaf(tmp_path / "tls", (name,))
        copies.append(copy_for_proxy(pair, tmp_path / "copies", None))
    assert not copies[0].key.exists()
    for kept in copies[1:]:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(kept.certificate, kept.key)
    assert mode(copies[2].key) == 0o600


def test_a_copy_for_a_container_is_readable_for_its_group_alone(tmp_path: Path) -> None:
    pair, _ = ensure_leaf(tmp_path / "tls", NAMES)
    copied = copy_for_proxy(pair, tmp_path / "copies", 65532)
    assert (mode(copied.key), copied.key.stat().st_gid) == (0o640, 65532)
    assert (mode(copied.key.parent), copied.key.parent.stat().st_gid) == (0o750, 65532)


def test_half_replaced_files_are_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair, _ = ensure_leaf(tmp_path / "one", NAMES)
    newer, _ = ensure_leaf(tmp_path / "two", ("new.school",))
    shown = served(tmp_path, given=pair)
    first = shown.ensure()
    assert shown.look() is None
    pair.certificate.write_bytes(newer.certificate.read_bytes())
    assert shown.look() is None
    assert shown.look() is None
    assert caplog.text.count("cannot be used with the key") == 1
    assert first.certificate.exists()
    pair.key.write_bytes(newer.key.read_bytes())
    second = shown.look()
    assert second is not None
    assert second != first
    assert certificates.names_in(second.certificate) >= {"new.school"}
    assert shown.look() is None


def test_files_that_do_not_fit_at_the_start_are_refused(tmp_path: Path) -> None:
    pair, _ = ensure_leaf(tmp_path / "one", NAMES)
    pair.key.write_text("not a key")
    with pytest.raises(Misconfigured, match="cannot be used with the key"):
        served(tmp_path, given=pair).ensure()


def test_what_an_authority_gave_takes_the_place_of_what_was_made_here(tmp_path: Path) -> None:
    obtained = Pair(tmp_path / "obtained.crt", tmp_path / "obtained.key")
    shown = served(tmp_path, obtained=obtained)
    first = shown.ensure()
    assert shown.look() is None
    other, _ = ensure_leaf(tmp_path / "authority", ("box.school",))
    obtained.key.write_bytes(other.key.read_bytes())
    obtained.certificate.write_bytes(other.certificate.read_bytes())
    second = shown.look()
    assert second is not None
    assert second.certificate.read_bytes() == other.certificate.read_bytes() != first.certificate.read_bytes()
