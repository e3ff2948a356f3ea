"""Access to a PostgreSQL ledger: certificates of an authority, and a password that changes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from daybook.errors import LedgerUnreachable
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from tests import postgresql_server
from tests.certificates import self_signed
from tests.databases import id_of
from tests.postgresql_server import OwnServer

pytestmark = pytest.mark.anyio

NAMES = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    return self_signed(*NAMES)


@pytest.fixture(scope="module")
def server(certificate: tuple[bytes, bytes]) -> Iterator[OwnServer]:
    with postgresql_server.started("first", b"".join(certificate)) as server:
        yield server


@pytest.mark.slow
async def test_a_private_authority_is_named_in_the_address(
    server: OwnServer, certificate: tuple[bytes, bytes], tmp_path: Path, daybook_home: Home
) -> None:
    right, other = tmp_path / "right.pem", tmp_path / "other.pem"
    right.write_bytes(certificate[0])
    other.write_bytes(self_signed(*NAMES)[0])
    server.execute("ALTER ROLE daybook PASSWORD 'first'")
    query = "?ssl=verify-full&sslrootcert="
    assert await id_of(server.address("first", f"{query}{right}"))
    for file, why in [
        (
            other,
            "its certificate is not trusted: .*; name the file of its authority as sslrootcert",
        ),
        (tmp_path / "missing.pem", "the sslrootcert .*missing.pem cannot be read"),
    ]:
        with pytest.raises(LedgerUnreachable, match=why):
            await id_of(server.address("first", f"{query}{file}"))


@pytest.mark.slow
async def test_a_new_password_in_the_settings_is_used_without_a_restart(
    server: OwnServer, daybook_home: Home
) -> None:
    server.execute("ALTER ROLE daybook PASSWORD 'first'")
    config = daybook_home.path / "config.toml"

    async def use(ledger: Ledger) -> None:
        async with ledger.write() as session:
            await session.merge(Fact(key="used", value="yes"))

    config.write_text(f'ledger_url = "{server.address("first").replace("+asyncpg", "")}"\n')
    async with Ledger(server.address("first")) as ledger, ledger.read():
        server.execute("ALTER ROLE daybook PASSWORD 'second'")
        with pytest.raises(LedgerUnreachable, match="password authentication failed") as error:
            await use(ledger)  # needs a second connection
        assert "first" not in str(error.value)
        config.write_text(config.read_text().replace("first", "second"))
        await use(ledger)
