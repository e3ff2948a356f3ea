"""Check of the certificates of the servers that this process reaches over TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daybook import settings as operator_settings
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.finding import Finding, warning

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MIN_VALIDITY = timedelta(days=7)
"""Remaining validity below which a certificate is reported."""
TIMEOUT_SECONDS = 5.0
_HTTPS_PORT = 443
_POSTGRESQL_PORT = 5432
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""The message with which a client asks a PostgreSQL server for TLS (its protocol, 55.2.11)."""


async def certificates(client: PrefectClient) -> list[Finding]:
    """Check that the certificates of Prefect, the ledger's database and the pages stay valid.

    A server that does not answer, or whose certificate is invalid, is reported by other checks.
    """
    servers = {"Prefect": str(client.api_url)}
    with suppress(InvalidInput):  # another check reports the invalid setting
        settings = operator_settings.load()
        servers["the ledger's database"] = settings.ledger_address
        servers["the public URL"] = settings.public_url
    found = await asyncio.gather(*(_check(name, url) for name, url in servers.items()))
    return [each for each in found if each is not None]


async def _check(name: str, url: str) -> Finding | None:
    parts = urlsplit(url)
    end = None
    with suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            end = await _end(parts.scheme, parts.hostname or "", parts.port)
    if end is None or end - SYSTEM_CLOCK.now() > MIN_VALIDITY:
        return None
    return warning(
        "certificates",
        f"the certificate of {name} ({parts.hostname}) is valid until {end:%Y-%m-%d %H:%M} UTC",
        "renew it, and let the server load the new one",
    )


async def _end(scheme: str, host: str, port: int | None) -> datetime | None:
    """Return the end of the validity of the server's certificate; None if it uses no TLS."""
    from cryptography import x509

    is_database = scheme.startswith("postgresql")
    if not host or not (is_database or scheme == "https"):
        return None
    default = _POSTGRESQL_PORT if is_database else _HTTPS_PORT
    reader, writer = await asyncio.open_connection(host, port or default)
    try:
        if is_database:
            writer.write(_SSL_REQUEST)
            if await reader.read(1) != b"S":
                return None
        # The clients verify the certificate. This check only reads it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await writer.start_tls(context, server_hostname=host)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    return x509.load_der_x509_certificate(shown).not_valid_after_utc
