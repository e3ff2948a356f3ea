"""Certificates of servers that tests start."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daybook.clock import SYSTEM_CLOCK


def self_signed(
    *names: x509.GeneralName,
    age: timedelta = timedelta(days=1),
    remaining: timedelta = timedelta(days=1),
) -> tuple[bytes, bytes]:
    """Return a self-signed certificate of ``names``, and its key, as texts of PEM.

    It is valid since ``age``, and for the ``remaining`` time.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0].value))])
    now = SYSTEM_CLOCK.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now + remaining)
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def localhost(folder: Path) -> Path:
    """Return the path of a PEM file with a self-signed certificate of localhost and its key."""
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    path = folder / "both.pem"
    path.write_bytes(b"".join(self_signed(x509.DNSName("localhost"), address)))
    return path
