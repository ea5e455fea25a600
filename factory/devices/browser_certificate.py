"""A self-made certificate, so that a phone on the network gets a page with HTTPS.

Over plain HTTP a page from another computer is no secure context: no isolation, hence no WASM
threads, no WebGPU and coarse timers. The browser warns of the certificate once; its SHA-256 is
printed for whoever wants to compare. Kept in the user's home so that the warning comes only once.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from factory.core.files import disk_errors, write_atomic_bytes

DAYS = 90
LEAST_DAYS = 2  # left, or a new one is made


def lan_addresses() -> list[str]:
    """Addresses of this computer that another one on the network may reach, the usual one first.

    No packet is sent: connecting a datagram socket only asks the system for its route.
    """
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737)
            found.append(probe.getsockname()[0])
        except OSError:
            pass
    try:
        names = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    except OSError:
        names = []
    found += [str(entry[4][0]) for entry in names]
    return [a for a in dict.fromkeys(found) if not ipaddress.ip_address(a).is_loopback]


def certificate(folder: Path, addresses: Sequence[str]) -> tuple[Path, str]:
    """PEM file with key and certificate for these addresses, made when needed; its SHA-256."""
    path = folder / "page.pem"
    digest = _usable(path, addresses)
    if digest is None:
        with disk_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            os.chmod(folder, 0o700)
        write_atomic_bytes(path, _make(addresses))
        os.chmod(path, 0o600)
        digest = _usable(path, addresses)
    return path, digest or ""


def _usable(path: Path, addresses: Sequence[str]) -> str | None:
    """SHA-256 of the certificate in ``path`` when it is good for these addresses a while."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        made = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    left = made.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    if not set(addresses) <= known or left < datetime.timedelta(days=LEAST_DAYS):
        return None
    return made.fingerprint(hashes.SHA256()).hex(":").upper()


def _make(addresses: Sequence[str]) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "model factory")])
    now = datetime.datetime.now(datetime.UTC)
    others: list[x509.GeneralName] = [x509.DNSName("localhost")]
    others += [x509.IPAddress(ipaddress.ip_address(a)) for a in ["127.0.0.1", *addresses]]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + made.public_bytes(serialization.Encoding.PEM)
