"""Fixtures: the guarded transports of both HTTP libraries, and a test certificate authority."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from daybook.http.httpx2_transport import Httpx2Transport
from daybook.http.httpx_transport import HttpxTransport
from tests import certificates

Kind = type[HttpxTransport] | type[Httpx2Transport]


@pytest.fixture(params=[HttpxTransport, Httpx2Transport], ids=["httpx", "httpx2"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return the guarded transport of each library."""
    found: Kind = request.param
    return found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate of public.example, without and with its key."""
    made, key = certificates.self_signed(x509.DNSName("public.example"))
    folder = tmp_path_factory.mktemp("authority")
    authority, both = folder / "authority.pem", folder / "both.pem"
    authority.write_bytes(made)
    both.write_bytes(made + key)
    return authority, both


@pytest.fixture
def certified(certificate: tuple[Path, Path]) -> tuple[ssl.SSLContext, Path]:
    """Return a server context for public.example, and the authority that verifies it."""
    authority, both = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, authority
