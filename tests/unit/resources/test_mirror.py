"""Block documents and their copies in the ledger: edits, deletions, lost database, lost key."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect.client.orchestration import PrefectClient

from daybook import repository
from daybook.agents import documents, kinds
from daybook.errors import AgentMisconfigured, InvalidInput, LedgerKeyMissing, NotFound
from daybook.execution import agent_lookup
from daybook.home import Home
from daybook.keeper import blocks
from daybook.ledger.engine import Ledger
from daybook.resources import copies as block_copies
from daybook.resources import encryption, mirror, secrets, store
from daybook.resources.mirror import ComparisonCache, MirrorReport
from daybook.testing import ManualClock
from tests import databases
from tests.databases import Database
from tests.unit.resources.prefect_blocks import FakePrefect, Killed, Steps

pytestmark = pytest.mark.anyio

SECRET = secrets.STORE
VALUE = "s3cr3t-of-the-api"
DATA: dict[str, Any] = {"value": VALUE, "hosts": ["api.example.org"]}
OTHER: dict[str, Any] = {"value": "another-s3cr3t", "hosts": ["b.example.org"]}
REF = (SECRET.slug, "ops")


class Counted(Ledger):
    """Ledger whose writes are steps at which a process may die."""

    steps = Steps()

    @asynccontextmanager
    async def write(self, within: timedelta | None = None) -> AsyncIterator[Any]:
        self.steps.step()
        async with super().write(within) as session:
            yield session
        self.steps.step()


@dataclass
class Both:
    """A fake Prefect and a ledger; ``memory`` is the cache of one keeper."""

    prefect: FakePrefect
    ledger: Ledger
    steps: Steps
    there: Database
    memory: ComparisonCache

    @property
    def client(self) -> PrefectClient:
        return cast("PrefectClient", self.prefect)

    async def agree(self) -> MirrorReport:
        return await blocks.reconcile_blocks(self.ledger, self.client, self.memory)

    async def keep(self, data: dict[str, Any] = DATA, *, replace: bool = False) -> None:
        await SECRET.save(self.client, "ops", SECRET.validate(data), replace=replace)

    async def forget(self) -> None:
        await SECRET.remove(self.client, "ops")

    def rows(self) -> list[tuple[Any, ...]]:
        return self.there.query("SELECT slug, name, type_id, sealed FROM block_copies ORDER BY 1")

    async def copies(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the decrypted copies."""
        async with self.ledger.read() as session:
            key = await block_copies.key(session, home_now())
            rows = await block_copies.list_copies(session)
        return {(r.slug, r.name): block_copies.decrypt(r, key) for r in rows if key is not None}

    async def same(self) -> bool:
        """Return whether ledger and Prefect have the same documents of the same types."""
        types = {slug: str(id_) for slug, id_ in self.prefect.types.items()}
        below = all(types[slug] == type_id for slug, _, type_id, _ in self.rows())
        return below and await self.copies() == self.prefect.holds()


def home_now() -> Home:
    from daybook.home import current_home

    return current_home()


@pytest.fixture(params=databases.KINDS)
async def both(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Both]:
    """Return a Prefect with Daybook's block types and an empty ledger of each database kind."""
    path = tmp_path / "ledger.db"
    there = databases.of_kind(request.param, path, databases.server_of(request), prepared=True)
    steps = Steps()
    prefect = FakePrefect(blocks.BLOCK_TYPES, steps)
    prefect.register()

    async def register(client: FakePrefect) -> None:
        client.register()

    door = SimpleNamespace(register=register)
    monkeypatch.setattr(repository, "load_entry_point", lambda _: door)
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", there.address)
    monkeypatch.setattr(Counted, "steps", steps)
    monkeypatch.setattr(store, "Ledger", Counted)
    async with Counted(there.address, ManualClock()) as ledger:
        yield Both(prefect, ledger, steps, there, ComparisonCache())


# --- from Prefect to the ledger


async def test_a_saved_secret_has_an_encrypted_copy_at_once(
    both: Both, daybook_home: Home, tmp_path: Path
) -> None:
    await both.keep()
    ((slug, name, type_id, sealed),) = both.rows()
    assert (slug, name) == REF
    assert type_id == str(both.prefect.types[slug])
    assert await both.copies() == {REF: DATA}
    assert VALUE not in sealed
    assert "api.example.org" not in sealed
    assert stat.S_IMODE(daybook_home.ledger_key.stat().st_mode) == 0o600
    key = daybook_home.ledger_key.read_text().strip()
    files = _files_of(tmp_path)
    assert VALUE.encode() not in files
    assert key.encode() not in files
    assert key not in str(both.there.query("SELECT * FROM facts"))


def _files_of(folder: Path) -> bytes:
    """Return the content of the SQLite ledger's files; empty for PostgreSQL."""
    return b"".join(file.read_bytes() for file in folder.glob("ledger.db*"))


async def test_a_document_made_or_edited_in_the_ui_is_copied_once(both: Both) -> None:
    both.prefect.ui(*REF, **DATA)
    assert (await both.agree()).copied == ["secret ops"]
    before, asked = both.rows(), both.prefect.asked_for_secrets
    assert await both.agree() == MirrorReport()
    # A keeper that starts compares once, and writes nothing.
    both.memory = ComparisonCache()
    assert await both.agree() == MirrorReport()
    assert (both.rows(), both.prefect.asked_for_secrets) == (before, asked + 1)
    both.prefect.ui(*REF, **OTHER)
    assert (await both.agree()).copied == ["secret ops"]
    assert await both.copies() == {REF: OTHER}
    assert await both.same()


async def test_more_documents_than_one_page_are_copied_and_restored(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_PAGE", 10)
    for number in range(25):
        both.prefect.ui(SECRET.slug, f"ops-{number}", **DATA)
    assert len((await both.agree()).copied) == 25
    assert await both.agree() == MirrorReport()
    both.prefect.lose()
    assert len((await both.agree()).restored) == 25
    assert await both.agree() == MirrorReport()
    assert await both.same()


# --- from the ledger to Prefect


async def test_all_documents_are_restored_after_prefect_lost_its_database(both: Both) -> None:
    for of in blocks.BLOCK_TYPES:
        both.prefect.ui(of.slug, "one", value=f"{VALUE} of {of.slug}")
    await both.agree()
    before = both.prefect.holds()
    assert len(before) == len(blocks.BLOCK_TYPES) > 7
    both.prefect.lose()
    report = await both.agree()
    assert report.registered
    assert sorted(report.restored) == sorted(f"{of.noun} one" for of in blocks.BLOCK_TYPES)
    assert both.prefect.holds() == before
    assert (await both.agree()).restored == []
    assert await both.same()


async def test_a_document_recreated_by_hand_is_not_overwritten_by_a_restore(both: Both) -> None:
    await both.keep()
    both.prefect.lose()
    both.prefect.register()
    both.prefect.ui(*REF, **OTHER)
    report = await both.agree()
    assert (report.restored, report.copied) == ([], ["secret ops"])
    assert both.prefect.holds() == {REF: OTHER}
    assert await both.same()


async def test_a_document_deleted_in_the_ui_is_not_restored(both: Both) -> None:
    await both.keep()
    await both.agree()
    both.prefect.ui_deletes(*REF)
    report = await both.agree()
    assert (report.removed, report.restored) == (["secret ops"], [])
    assert both.rows() == []
    both.prefect.lose()
    assert (await both.agree()).restored == []
    assert both.prefect.holds() == {}


@pytest.mark.parametrize("lost_before", [False, True])
async def test_a_secret_removed_by_command_is_not_restored(both: Both, lost_before: bool) -> None:
    await both.keep()
    await both.agree()
    if lost_before:  # and not restored yet
        both.prefect.lose()
        both.prefect.register()
    await both.forget()
    assert both.rows() == []
    both.prefect.lose()
    assert (await both.agree()).restored == []
    assert both.prefect.holds() == {}
    with pytest.raises(NotFound):
        await both.forget()


@pytest.mark.parametrize("lost_before", [False, True])
async def test_an_agent_removed_by_command_is_not_restored(both: Both, lost_before: bool) -> None:
    await documents.add(both.client, "robot", "command", {"command": ["cat"]})
    if lost_before:
        both.prefect.lose()
        both.prefect.register()
    await documents.remove(both.client, "robot")
    both.prefect.lose()
    await both.agree()
    assert (both.prefect.holds(), both.rows()) == ({}, [])
    with pytest.raises(NotFound):
        await documents.remove(both.client, "robot")


async def test_a_document_removed_during_its_restore_stays_removed(both: Both) -> None:
    await both.keep()
    both.prefect.lose()

    async def removed() -> None:
        async with both.ledger.write() as session:
            await block_copies.remove(session, REF)

    both.prefect.before_create = removed
    assert (await both.agree()).restored == []
    assert (both.prefect.holds(), both.rows()) == ({}, [])


async def test_a_document_missing_in_one_listing_is_not_taken_for_deleted(both: Both) -> None:
    await both.keep()
    both.prefect.unlisted = {"ops"}
    assert await both.agree() == MirrorReport()
    assert await both.same()


async def test_a_document_that_prefect_refuses_is_reported_and_the_others_are_restored(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await both.keep()
    both.prefect.ui(SECRET.slug, "other", **OTHER)
    await both.agree()
    both.prefect.lose()
    both.prefect.refuses = {"ops": 422}
    report = await both.agree()
    assert report.failed == {"secret ops": "Prefect answered 422"}
    assert report.restored == ["secret other"]
    assert VALUE not in caplog.text + repr(report)
    both.prefect.refuses = {}
    assert (await both.agree()).restored == ["secret ops"]
    assert await both.same()


async def test_a_manipulated_copy_is_reported_and_not_restored(both: Both) -> None:
    await both.keep()
    both.prefect.ui(SECRET.slug, "other", **OTHER)
    await both.agree()
    # The other secret's encrypted text under this one's name.
    both.there.query(
        "UPDATE block_copies SET sealed = "
        "(SELECT sealed FROM block_copies WHERE name = 'other') WHERE name = 'ops'"
    )
    before = both.rows()
    both.prefect.lose()
    report = await both.agree()
    assert report.restored == ["secret other"]
    assert "damaged" in report.failed["secret ops"]
    assert set(both.prefect.holds()) == {(SECRET.slug, "other")}
    assert [row[3] for row in both.rows()] == [row[3] for row in before]


# --- a process that dies

Act = Callable[[Both], Awaitable[Any]]


async def _nothing(both: Both) -> None:
    pass


async def _kept(both: Both) -> None:
    await both.keep()


async def _lost(both: Both) -> None:
    await both.keep()
    both.prefect.ui(SECRET.slug, "other", **OTHER)
    await both.agree()
    both.prefect.lose()


async def _deleted(both: Both) -> None:
    await both.keep()
    both.prefect.ui_deletes(*REF)


NONE: dict[tuple[str, str], Any] = {}
TWO = {REF: DATA, (SECRET.slug, "other"): OTHER}
DEATHS: dict[str, tuple[Act, Act, list[dict[tuple[str, str], Any]]]] = {
    "keep": (_nothing, Both.keep, [NONE, {REF: DATA}]),
    "replace": (
        _kept,
        lambda both: both.keep(OTHER, replace=True),
        [{REF: DATA}, {REF: OTHER}],
    ),
    "forget": (_kept, Both.forget, [{REF: DATA}, NONE]),
    "restore": (_lost, Both.agree, [TWO]),
    "notice a deletion": (_deleted, Both.agree, [NONE]),
}


@pytest.mark.parametrize("name", DEATHS)
async def test_after_a_death_at_any_write_the_next_reconcile_makes_both_sides_equal(
    both: Both, name: str
) -> None:
    before, act, after = DEATHS[name]
    for dies_at in range(1, 100):
        await _cleared(both)
        await before(both)
        both.steps.count, both.steps.dies_at = 0, dies_at
        died = False
        try:
            await act(both)
        except Killed:
            died = True
        both.steps.dies_at, both.memory = 0, ComparisonCache()
        await both.agree()
        assert await both.same(), dies_at
        assert both.prefect.holds() in (after if died else after[-1:]), dies_at
        assert await both.agree() == MirrorReport()
        if not died:
            assert dies_at > 2
            return
    raise AssertionError("it never came to its end")


async def _cleared(both: Both) -> None:
    both.prefect.documents.clear()
    both.prefect.register()
    async with both.ledger.write() as session:
        await block_copies.remove_key(session)


# --- a home without the key


@pytest.fixture
def elsewhere(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Home]:
    """Return a function that moves this process to another home with the same ledger."""

    def moved() -> Home:
        both.memory = ComparisonCache()
        monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "elsewhere"))
        return Home(tmp_path / "elsewhere").make()

    return moved


@pytest.mark.parametrize("key", [None, "another", "damaged"])
async def test_without_the_key_no_copy_is_restored_changed_or_deleted(
    both: Both, elsewhere: Callable[[], Home], caplog: pytest.LogCaptureFixture, key: str | None
) -> None:
    home = home_now()
    await both.keep()
    await both.agree()
    rows, facts = both.rows(), both.there.query("SELECT * FROM facts ORDER BY 1")
    there = elsewhere()
    if key == "another":
        encryption.read_or_create_key(there.ledger_key)
    elif key == "damaged":
        there.ledger_key.write_text("nothing of ours")
    before = there.ledger_key.read_text() if key else None
    both.prefect.lose()
    for _ in range(2):
        report = await both.agree()
        assert report.locked == ["secret ops"]
        assert str(there.ledger_key) in report.key_problem
    assert caplog.text.count("Cannot copy agents and secrets") == 1
    # A document created in Prefect works there, and stays.
    both.prefect.ui(SECRET.slug, "new", **OTHER)
    await SECRET.save(both.client, "newer", SECRET.validate(OTHER))
    await both.agree()
    assert set(both.prefect.holds()) == {(SECRET.slug, "new"), (SECRET.slug, "newer")}
    assert (both.rows(), both.there.query("SELECT * FROM facts ORDER BY 1")) == (rows, facts)
    assert (there.ledger_key.read_text() if there.ledger_key.exists() else None) == before
    # With the key of the first home, restoring and copying continue.
    there.ledger_key.unlink(missing_ok=True)
    os.link(home.ledger_key, there.ledger_key)
    report = await both.agree()
    assert (report.restored, sorted(report.copied)) == (
        ["secret ops"],
        ["secret new", "secret newer"],
    )
    assert await both.same()


async def test_without_the_key_no_new_default_agent_replaces_the_lost_one(
    both: Both, elsewhere: Callable[[], Home]
) -> None:
    model = {"model": "openai:gpt-6-luna", "api_key": VALUE}
    await documents.add(both.client, "default", kinds.MODEL.slug, model)
    rows = both.rows()
    both.prefect.lose()
    both.prefect.register()
    elsewhere()
    with pytest.raises(LedgerKeyMissing):
        await documents.ensure_default(both.client)
    with pytest.raises(AgentMisconfigured, match="ledger-key does not exist"):
        await agent_lookup.find_agent(both.client, "default")
    assert (both.prefect.holds(), both.rows()) == ({}, rows)


async def test_a_lost_default_agent_is_restored_instead_of_recreated(both: Both) -> None:
    model = {"model": "openai:gpt-6-luna", "api_key": VALUE}
    await documents.add(both.client, "default", kinds.MODEL.slug, model)
    before = both.prefect.holds()
    both.prefect.lose()
    both.prefect.register()
    assert await documents.ensure_default(both.client) is False
    assert both.prefect.holds() == before


async def test_lost_documents_can_be_listed(both: Both) -> None:
    await both.keep()
    both.prefect.ui(SECRET.slug, "gone", **OTHER)
    await both.agree()
    both.prefect.ui_deletes(SECRET.slug, "gone")
    assert await mirror.list_lost(both.ledger, both.client, blocks.BLOCK_TYPES) == []
    both.prefect.lose()
    lost = await mirror.list_lost(both.ledger, both.client, blocks.BLOCK_TYPES)
    assert sorted(lost) == ["secret gone", "secret ops"]


async def test_with_an_invalid_ledger_address_nothing_is_saved_in_prefect(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "nonsense://")
    with pytest.raises(InvalidInput):
        await both.keep()
    assert both.prefect.holds() == {}
