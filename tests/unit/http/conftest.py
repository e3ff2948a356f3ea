"""Fixtures: the guarded transports of both HTTP libraries, and a test certificate authority."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daybook.clock import SYSTEM_CLOCK
from daybook.http.httpx2_transport import Httpx2Transport
from daybook.http.httpx_transport import HttpxTransport

Kind = type[HttpxTransport] | type[Httpx2Transport]


@pytest.fixture(params=[HttpxTransport, Httpx2Transport], ids=["httpx", "httpx2"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return the guarded transport of each library."""
    found: Kind = request.param
    return found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate of public.example, without and with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "public.example")])
    now = SYSTEM_CLOCK.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("public.example")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("authority")
    authority, both = folder / "authority.pem", folder / "both.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    both.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return authority, both


@pytest.fixture
def certified(certificate: tuple[Path, Path]) -> tuple[ssl.SSLContext, Path]:
    """Return a server context for public.example, and the authority that verifies it."""
    authority, both = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, authority
