"""Check of the certificates of the servers that this process reaches over TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import make_url

from daybook import settings as operator_settings
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.finding import Finding, warning

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from prefect.client.orchestration import PrefectClient

CHECK = "certificates"
MIN_VALIDITY = timedelta(days=7)
"""Remaining validity from which a certificate is reported.

Of a certificate that is valid for less than three weeks, the last third is reported.
"""
TIMEOUT_SECONDS = 5.0
_HTTPS_PORT = 443
_POSTGRESQL_PORT = 5432
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""The message with which a client asks a PostgreSQL server for TLS (its protocol, 55.2.11)."""


@dataclass(frozen=True)
class TlsServer:
    """A server with TLS: what it is, and where it listens."""

    name: str
    host: str
    port: int
    is_postgresql: bool = False


async def certificates(client: PrefectClient) -> list[Finding]:
    """Check that the certificates of Prefect, the ledger's database and the pages stay valid.

    A server that does not answer, or whose certificate is invalid, is reported by other checks.
    """
    servers = _https("Prefect", str(client.api_url))
    with suppress(InvalidInput):  # another check reports the invalid setting
        settings = operator_settings.load()
        servers += _https("the public URL", settings.public_url)
        servers += _databases(settings.ledger_address)
    found = await asyncio.gather(*map(_check, servers))
    return [each for each in found if each is not None]


def _https(name: str, url: str) -> list[TlsServer]:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return []
    return [TlsServer(name, parts.hostname, parts.port or _HTTPS_PORT)]


def _databases(address: str) -> list[TlsServer]:
    """Return the servers of a ledger on PostgreSQL that clients reach over a network.

    An address has one host, or several as `?host=HOST:PORT&host=HOST:PORT`.
    """
    url = make_url(address)
    hosts = [url.host] if url.host else list(url.normalized_query.get("host", ()))
    if url.get_backend_name() != "postgresql" or url.query.get("ssl") == "disable":
        return []
    servers = list[TlsServer]()
    for each in hosts:
        host, _, port = each.partition(":") if not url.host else (each, "", str(url.port or ""))
        if not host.startswith("/"):  # the folder of a socket
            number = int(port) if port.isdigit() else _POSTGRESQL_PORT
            servers.append(TlsServer("the ledger's database", host, number, is_postgresql=True))
    return servers


async def _check(server: TlsServer) -> Finding | None:
    certificate = None
    with suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            certificate = await _read(server)
    if certificate is None:
        return None
    end, now = certificate.not_valid_after_utc, SYSTEM_CLOCK.now()
    lifetime = end - certificate.not_valid_before_utc
    if end - now > min(MIN_VALIDITY, lifetime / 3):
        return None
    what = f"the certificate of {server.name} ({server.host})"
    word = "ended on" if end <= now else "ends on"
    fix = "renew it, and let the server load the new one"
    return warning(CHECK, f"{what} {word} {end:%Y-%m-%d at %H:%M} UTC", fix)


async def _read(server: TlsServer) -> Certificate | None:
    """Return the certificate of the server; None if it offers no TLS."""
    from cryptography.x509 import load_der_x509_certificate

    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        if server.is_postgresql:
            writer.write(_SSL_REQUEST)
            if await reader.read(1) != b"S":
                return None
        # The clients verify the certificate. This check only reads it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await writer.start_tls(context, server_hostname=server.host)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    return load_der_x509_certificate(shown)
