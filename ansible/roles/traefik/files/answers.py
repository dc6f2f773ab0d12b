"""answers.py JSON: waits until the box answers at its name, with the certificate it should have; a sentence if it does not.

{"name": "box.school" or "", "port": 443, "tls": "files", "certificate": FILE or "", "timeout_s": 120}
"""
import hashlib
import http.client
import json
import re
import socket
import ssl
import sys
import time

told = json.loads(sys.argv[1])


def ask():
    """Return (status, certificate's DER or None). The box is asked on loopback, under its public name."""
    plain = socket.create_connection(("127.0.0.1", told["port"]), timeout=5)
    der = None
    if told["tls"] != "off":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = context.wrap_socket(plain, server_hostname=told["name"] or None)
        der = plain.getpeercert(binary_form=True)
    connection = http.client.HTTPConnection(told["name"] or "127.0.0.1", told["port"])
    connection.sock = plain
    connection.request("GET", "/hub/health", headers={"Host": told["name"] or "127.0.0.1"})
    status = connection.getresponse().status
    connection.close()
    return status, der


def wrong(status, der):
    """Return why this is not what was wanted, "" if it is."""
    if status != 200:
        return f"it answers with status {status}"
    if told["tls"] == "off":
        return ""
    if told["certificate"]:
        with open(told["certificate"], encoding="ascii", errors="replace") as file:
            pem = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", file.read(), re.S)
        if hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[0])).digest() != hashlib.sha256(der).digest():
            return f"it shows another certificate than {told['certificate']}"
    if b"TRAEFIK DEFAULT CERT" in der:
        return "it shows Traefik's own placeholder and not a certificate of the box"
    return ""


ends_at, reason = time.monotonic() + told["timeout_s"], ""
while True:
    try:
        reason = wrong(*ask())
    except (OSError, http.client.HTTPException) as error:
        reason = f"it does not answer ({error})"
    if not reason:
        sys.exit(0)
    if time.monotonic() >= ends_at:
        sys.exit(f"The box was asked at port {told['port']} for {told['timeout_s']} seconds, and {reason}. "
                 "Look at: appliance doctor; docker logs appliance-traefik")
    time.sleep(0.3)
