"""Loss of the key of the ledger's copies: findings of `doctor`, and `daybook ledger rekey`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from daybook.api import ledger as ledger_operations
from daybook.diagnosis.checks import home as machine
from daybook.diagnosis.checks import ledger as book
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.finding import Severity
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.operations import setup
from daybook.resources import copies, secrets
from tests.at_prefect import add_document

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

HOSTS = ["api.example.org"]


@pytest.fixture
async def client(prefect_server: Any, daybook_home: Home) -> AsyncIterator[Any]:
    """Yield a client of a Prefect that has no secret, before and after the test."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await setup.prepare(client)
        await _forget(client)
        yield client
        await _forget(client)


async def _forget(client: Any) -> None:
    for each in await secrets.STORE.documents(client):
        await client.delete_block_document(each.id)


@contextmanager
def _opened(home: Home) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(home.path / "ledger.db")) as opened, opened:
        yield opened


def _sealed(home: Home) -> dict[str, str]:
    with _opened(home) as opened:
        return dict(opened.execute("SELECT slug || '/' || name, sealed FROM block_copies"))


async def _lose(client: Any, home: Home, name: str) -> None:
    """Delete one secret as if Prefect had lost it: its copy refers to another block type."""
    with _opened(home) as opened:
        opened.execute("UPDATE block_copies SET type_id = 'another' WHERE name = ?", (name,))
    found = await secrets.STORE.find(client, name)
    assert found is not None
    await client.delete_block_document(found.id)


@pytest.mark.slow
async def test_rekey_is_refused_while_the_key_exists(client: Any, daybook_home: Home) -> None:
    await add_document(secrets.STORE, client, "ops", {"value": "s3cr3t", "hosts": HOSTS})
    assert await book.ledger_key() == await book.copies(client) == []
    before = _sealed(daybook_home)
    with pytest.raises(InvalidInput, match="has the ledger's key"):
        await ledger_operations.rekey()
    assert _sealed(daybook_home) == before


async def test_rekey_copies_all_documents_of_prefect_with_a_new_key(
    client: Any, daybook_home: Home
) -> None:
    await add_document(secrets.STORE, client, "ops", {"value": "s3cr3t", "hosts": HOSTS})
    before, old = _sealed(daybook_home), daybook_home.ledger_key.read_text()
    daybook_home.ledger_key.unlink()
    (problem,) = await book.ledger_key()
    assert f"{daybook_home.ledger_key} does not exist" in problem.message
    assert "daybook ledger rekey" in problem.fix
    assert problem.severity is Severity.PROBLEM

    done = await ledger_operations.rekey()
    assert "secret ops" in done.copied
    assert done.discarded == []
    assert daybook_home.ledger_key.read_text() != old
    assert await book.ledger_key() == []
    after = _sealed(daybook_home)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    address = f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db"
    async with Ledger(address) as ledger, ledger.read() as session:
        key = await copies.key(session, daybook_home)
        row = await copies.get(session, (secrets.STORE.slug, "ops"))
    assert key is not None
    assert row is not None
    assert copies.decrypt(row, key) == {"value": "s3cr3t", "hosts": HOSTS}


async def test_rekey_discards_copies_that_prefect_has_lost_only_on_request(
    client: Any, daybook_home: Home
) -> None:
    await add_document(secrets.STORE, client, "ops", {"value": "s3cr3t", "hosts": HOSTS})
    await add_document(secrets.STORE, client, "lost", {"value": "an0ther", "hosts": HOSTS})
    await _lose(client, daybook_home, "lost")
    (problem,) = await book.copies(client)
    assert problem.message.endswith("has copies of them: secret lost")
    assert "daybook up" in problem.fix
    daybook_home.ledger_key.unlink()
    (problem,) = await book.copies(client)
    assert "the key of the copies is missing" in problem.message

    before = _sealed(daybook_home)
    with pytest.raises(InvalidInput, match="secret lost"):
        await ledger_operations.rekey()
    assert _sealed(daybook_home) == before
    assert not daybook_home.ledger_key.exists()

    done = await ledger_operations.rekey(discard=True)
    assert (done.discarded, "secret ops" in done.copied) == (["secret lost"], True)
    assert f"{secrets.STORE.slug}/lost" not in _sealed(daybook_home)
    assert await book.ledger_key() == await book.copies(client) == []


@pytest.mark.slow
async def test_rekey_does_not_overwrite_a_file_that_contains_no_key(
    client: Any, daybook_home: Home
) -> None:
    await add_document(secrets.STORE, client, "ops", {"value": "s3cr3t", "hosts": HOSTS})
    before = _sealed(daybook_home)
    daybook_home.ledger_key.write_text("nothing of ours\n")
    with pytest.raises(LedgerKeyMissing, match="contains no key"):
        await ledger_operations.rekey()
    assert daybook_home.ledger_key.read_text() == "nothing of ours\n"
    assert _sealed(daybook_home) == before
    daybook_home.ledger_key.unlink()
    assert "secret ops" in (await ledger_operations.rekey()).copied


def test_doctor_reports_a_key_file_that_others_can_read(daybook_home: Home) -> None:
    daybook_home.ledger_key.write_text("")
    daybook_home.ledger_key.chmod(0o640)
    (problem,) = machine.modes()
    assert problem.fix == f"chmod 600 {daybook_home.ledger_key}"
