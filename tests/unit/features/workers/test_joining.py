"""Invitations, and the checks with which a home joins a ledger: a refusal writes nothing."""

from __future__ import annotations

import base64
import json
import os
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import delete
from sqlmodel import col

from daybook import __version__, settings
from daybook import home as homes
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery import home_secret
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.features.workers import invitation, joining
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.prefect import client, links
from daybook.resources import copies, encryption
from daybook.runs import shared_settings
from tests import databases
from tests.databases import Postgresql

pytestmark = pytest.mark.anyio

PREFECT, POOL = "http://prefect.example:4200/api", "pool-1"

SIGNING = f"whsec_{base64.b64encode(b'geheim' * 5).decode()}"
PING = "https://ping.example/geheim"
WRITTEN = ["ledger-key", "webhook-secret", "browser-key", "prefect-server.json", "config.toml"]
"""The files that `join` writes, in this order."""
WRITERS = (
    (joining, "make_private_file"),
    (homes, "replace_private_file"),
    (joining, "replace_private_file"),
)
"""The functions with which it writes them."""


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Postgresql:
    found = databases.of_kind("postgresql", tmp_path / "db", databases.server_of(request))
    assert isinstance(found, Postgresql)
    return found


@pytest.fixture
def joining_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a new home, on a machine without Prefect settings."""
    home = Home(tmp_path / "second")
    monkeypatch.setenv("DAYBOOK_HOME", str(home.path))
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # `join` sets them, and the test ends with the earlier value
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return home


@pytest.fixture(autouse=True)
def pools(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return Prefect servers that answer, by their address, with the id of their work pool."""
    servers = {PREFECT: POOL}

    @asynccontextmanager
    async def connected() -> AsyncIterator[FakePrefect]:
        address = homes.user_prefect()
        yield FakePrefect(address, servers[address])

    monkeypatch.setattr(client, "connected", connected)
    return servers


@dataclass
class FakePrefect:
    """Client of a Prefect server that answers, with a work pool unless the id is empty."""

    api_url: str
    pool_id: str

    async def api_healthcheck(self) -> None:
        return None

    async def api_version(self) -> str:
        return "3"

    async def read_work_pool(self, _: str) -> FakePool:
        if not self.pool_id:
            raise ObjectNotFound(ValueError())
        return FakePool(self.pool_id)


@dataclass
class FakePool:
    id: str


async def join(url: str, file: Path) -> joining.Joined:
    """Join as a command does: its process ends with its variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
            patch.setenv(name, os.environ.get(name, ""))
            if not os.environ[name]:
                patch.delenv(name)
        return await joining.join(url, file)


async def invite(address: str, file: Path, first: Home, **changes: Any) -> None:
    """Write an invitation to the ledger at ``address`` whose key is that of the home ``first``."""
    async with Ledger(address) as ledger:
        async with ledger.write() as session:
            await copies.get_or_create_key(session, first.make())
            await links.record_instance(session, POOL, [])
        content = {
            "version": __version__,
            "ledger_id": ledger.id,
            "ledger_key": first.ledger_key.read_text().strip(),
            "prefect_api_url": PREFECT,
            "prefect_auth": "ann:geheim",
            "webhook_secret": f"{SIGNING}\n",
            "browser_key": "bk-geheim",
            "leader": {"ping_url": PING, "public_url": "https://daybook.example"},
            "shared": {"timezone": "Europe/Berlin", "max_concurrent": 9, "max_per_agent": {"a": 2}},
        }
    _write(file, content | changes)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))


async def test_a_home_joins_with_key_prefect_and_settings_and_again_changes_nothing(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    first, file = Home(tmp_path / "first"), tmp_path / "invitation.json"
    await invite(database.address, file, first)

    joined = await join(database.url, file)

    shared = {"timezone": "Europe/Berlin", "max_concurrent": 9, "max_per_agent": {"a": 2}}
    leader = {"ping_url": PING, "public_url": "https://daybook.example"}
    assert joined.settings == {**shared, **leader, "ping_url": "(secret)"}
    written = tomllib.loads((joining_home.path / "config.toml").read_text())
    assert written == {"ledger_url": database.url, **shared, **leader}
    assert joining_home.ledger_key.read_text() == first.ledger_key.read_text()
    assert home_secret.read_secrets(joining_home) == [(SIGNING, None)]
    assert joining_home.browser_key() == "bk-geheim"
    assert joining_home.read_joined_prefect() == (PREFECT, "ann:geheim")
    for each in WRITTEN:
        assert (joining_home.path / each).stat().st_mode & 0o777 == 0o600
    before = (joining_home.path / "config.toml").read_bytes()
    assert settings.load().max_concurrent == 9
    await join(database.url, file)
    assert (joining_home.path / "config.toml").read_bytes() == before


async def test_a_pod_joins_again_after_an_upgrade_a_new_password_or_a_new_key(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file, first = tmp_path / "invitation.json", Home(tmp_path / "first")
    await invite(database.address, file, first, version="0.0.1", shared={"timezone": "UTC"})
    (warned,) = (await join(database.url, file)).warnings
    assert "0.0.1 in the invitation" in warned
    other, own = tmp_path / "other-key", joining_home.ledger_key.read_text()
    encryption.read_or_create_key(other)
    key, renewed = other.read_text().strip(), database.url.replace("@", ":new@")
    await invite(database.address, file, first, ledger_key=key)

    joined = await join(renewed, file)

    assert [each.partition(":")[0] for each in joined.warnings] == ["home", "settings"]
    assert joining_home.ledger_key.read_text() == own
    written = tomllib.loads((joining_home.path / "config.toml").read_text())
    assert (written["ledger_url"], written["timezone"]) == (renewed, "UTC")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ledger_id": "0" * 12}, "contains another ledger"),
        ({"ledger_key": "dbk_geheim"}, "contains no ledger key"),
        ({"shared": {"ledger_url": "x"}}, "is no invitation"),
    ],
)
async def test_what_does_not_fit_is_refused_and_nothing_is_written(
    database: Postgresql,
    joining_home: Home,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"), **changes)
    with pytest.raises(InvalidInput, match=message) as error:
        await join(database.url, file)
    assert "geheim" not in str(error.value)
    assert not joining_home.path.exists()


async def test_a_setting_that_differs_is_refused(
    database: Postgresql, joining_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    with pytest.raises(InvalidInput, match='timezone is "UTC" here, "Europe/Berlin" there'):
        await join(database.url, file)
    assert not joining_home.path.exists()


async def test_settings_of_the_leader_that_a_home_sets_are_kept(
    database: Postgresql, joining_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", "https://second.example")
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    await join(database.url, file)
    written = tomllib.loads((joining_home.path / "config.toml").read_text())
    assert written["ping_url"] == PING
    assert "public_url" not in written


async def test_another_signing_secret_in_a_setting_is_refused(
    database: Postgresql, joining_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, own = tmp_path / "invitation.json", home_secret.new_secret()
    await invite(database.address, file, Home(tmp_path / "first"))
    monkeypatch.setenv("DAYBOOK_WEBHOOK_SECRET", own)
    with pytest.raises(InvalidInput, match="webhook_secret: is not the secret") as error:
        await join(database.url, file)
    assert own not in str(error.value)
    assert SIGNING not in str(error.value)
    assert not joining_home.path.exists()
    monkeypatch.setenv("DAYBOOK_WEBHOOK_SECRET", SIGNING)
    await join(database.url, file)


async def test_an_invitation_has_the_secrets_and_settings_of_its_home(
    database: Postgresql, joining_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, file = Home(tmp_path / "first").make(), tmp_path / "invitation.json"
    now = SYSTEM_CLOCK.now()
    with monkeypatch.context() as patch:
        patch.setenv("DAYBOOK_HOME", str(first.path))
        patch.setenv("DAYBOOK_LEDGER_URL", database.url)
        patch.setattr(invitation, "is_loopback", lambda _: False)
        patch.setenv("PREFECT_API_AUTH_STRING", "ann:geheim")
        patch.setenv("DAYBOOK_PING_URL", PING)
        patch.setenv("DAYBOOK_APPROVAL_LINKS", "login")
        patch.setenv("DAYBOOK_KEEP_DAYS", "7")
        with temporary_settings({PREFECT_API_URL: PREFECT}):
            home_secret.rotate_default(first, now)
            written = await invitation.write(file)
    assert file.stat().st_mode & 0o777 == 0o600
    for secret in (PING, first.browser_key(), home_secret.default_secret(first, now)):
        assert secret in file.read_text()
        assert secret not in repr(written)
    async with Ledger(database.address) as ledger, ledger.write() as session:
        await links.record_instance(session, POOL, [])

    await join(database.url, file)

    for name in ("ledger-key", "webhook-secret", "browser-key"):
        assert (joining_home.path / name).read_text() == (first.path / name).read_text()
    loaded = settings.load()
    assert (loaded.ping_url.get_secret_value(), loaded.keep_days) == (PING, 7)
    assert (
        tomllib.loads((joining_home.path / "config.toml").read_text())["approval_links"] == "login"
    )


async def test_a_database_without_a_ledger_stays_empty(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    await invite(f"sqlite+aiosqlite:///{tmp_path}/other.db", file, Home(tmp_path / "first"))
    with pytest.raises(InvalidInput, match="contains no ledger"):
        await join(database.url, file)
    assert database.tables() == []
    assert not joining_home.path.exists()


async def test_the_key_of_another_ledger_is_refused(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file, other = tmp_path / "invitation.json", tmp_path / "other-key"
    encryption.read_or_create_key(other)
    key = other.read_text().strip()
    await invite(database.address, file, Home(tmp_path / "first"), ledger_key=key)
    with pytest.raises(LedgerKeyMissing, match="the invitation has another key"):
        await join(database.url, file)
    assert not joining_home.path.exists()


@pytest.mark.parametrize("pool", ["pool-2", ""])
@pytest.mark.parametrize("source", ["variable", "profile", "invitation"])
async def test_another_prefect_than_the_ledgers_is_refused(
    *,
    database: Postgresql,
    joining_home: Home,
    pools: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    pool: str,
) -> None:
    file, other = tmp_path / "invitation.json", "http://ann:geheim@other.example:4200/api"
    pools[other] = pool
    invited = other if source == "invitation" else PREFECT
    await invite(database.address, file, Home(tmp_path / "first"), prefect_api_url=invited)
    if source == "variable":
        monkeypatch.setenv("PREFECT_API_URL", other)
    elif source == "profile":
        (tmp_path / "prefect").mkdir()
        profile = f'active = "x"\n[profiles.x]\nPREFECT_API_URL = "{other}"\n'
        (tmp_path / "prefect" / "profiles.toml").write_text(profile)
    with pytest.raises(InvalidInput, match=r"other\.example:4200/api is not the server") as error:
        await join(database.url, file)
    assert "geheim" not in str(error.value)
    assert not joining_home.path.exists()


async def test_the_ledgers_prefect_in_the_machines_settings_is_kept(
    database: Postgresql,
    joining_home: Home,
    pools: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    pools["http://10.0.0.3:4200/api"] = POOL
    monkeypatch.setenv("PREFECT_API_URL", "http://10.0.0.3:4200/api")
    assert (await join(database.url, file)).prefect == "http://10.0.0.3:4200/api"
    assert not joining_home.joined_prefect.exists()


async def test_a_ledger_without_a_prefect_is_refused(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    async with Ledger(database.address) as ledger, ledger.write() as session:
        await session.execute(delete(Fact).where(col(Fact.key) == "pool"))
    with pytest.raises(InvalidInput, match="has no Prefect server yet"):
        await join(database.url, file)
    assert not joining_home.path.exists()


@pytest.mark.parametrize("name", ["ledger-key", "webhook-secret", "browser-key"])
async def test_a_secret_of_the_home_is_not_overwritten(
    database: Postgresql, joining_home: Home, tmp_path: Path, name: str
) -> None:
    file, own = tmp_path / "invitation.json", joining_home.make().path / name
    await invite(database.address, file, Home(tmp_path / "first"))
    own.write_text("dbk_own")
    with pytest.raises(InvalidInput, match=f"{name} exists, with another secret") as error:
        await join(database.url, file)
    assert "dbk_own" not in str(error.value)
    assert own.read_text() == "dbk_own"
    assert [each for each in WRITTEN if (joining_home.path / each).exists()] == [name]


async def test_a_key_that_another_command_writes_during_a_join_is_not_overwritten(
    database: Postgresql,
    joining_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))

    def write_first(key: Path, text: str) -> None:
        key.write_text("dbk_other")
        homes.make_private_file(key, text)

    monkeypatch.setattr(joining, "make_private_file", write_first)
    with pytest.raises(InvalidInput, match="ledger-key exists, with another secret"):
        await join(database.url, file)
    assert joining_home.ledger_key.read_text() == "dbk_other"
    assert not (joining_home.path / "config.toml").exists()


async def test_a_service_with_another_ledger_does_not_join(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    joining_home.make().service_environment.write_text("DAYBOOK_LEDGER_URL=postgresql://x/geheim")
    with pytest.raises(InvalidInput, match=r"service\.env: sets DAYBOOK_LEDGER_URL") as error:
        await join(database.url, file)
    assert "geheim" not in str(error.value)
    assert not joining_home.ledger_key.exists()


@pytest.mark.parametrize("killed_at", WRITTEN)
async def test_a_join_that_was_killed_is_completed_by_the_next_one(
    *,
    database: Postgresql,
    joining_home: Home,
    pools: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    file, moved = tmp_path / "invitation.json", "http://moved.example:4200/api"
    await invite(database.address, file, Home(tmp_path / "first"))

    def write_until_killed(write: Callable[[Path, str], None], target: Path, text: str) -> None:
        if target.name == killed_at:
            raise Killed
        write(target, text)

    with pytest.MonkeyPatch.context() as patch:
        for module, name in WRITERS:
            patch.setattr(module, name, partial(write_until_killed, getattr(homes, name)))
        with pytest.raises(Killed):
            await join(database.url, file)
    written = WRITTEN[: WRITTEN.index(killed_at)]
    assert [each for each in WRITTEN if (joining_home.path / each).exists()] == written

    pools[moved] = POOL  # the next invitation has a new address of the same server
    await invite(database.address, file, Home(tmp_path / "first"), prefect_api_url=moved)
    joined = await join(database.url, file)

    assert joined.prefect == moved
    assert joining_home.read_joined_prefect() == (moved, "ann:geheim")
    assert [each for each in WRITTEN if (joining_home.path / each).exists()] == WRITTEN
    assert settings.load().max_concurrent == 9


async def test_a_later_invitation_replaces_the_server_and_adds_settings(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file, first = tmp_path / "invitation.json", Home(tmp_path / "first")
    old, shared = {"timezone": "UTC"}, {"timezone": "UTC", "keep_days": 7}
    await invite(database.address, file, first, prefect_auth="old", shared=old, leader={})
    await join(database.url, file)
    await invite(database.address, file, first, shared=shared, leader={})

    await join(database.url, file)

    assert joining_home.read_joined_prefect() == (PREFECT, "ann:geheim")
    written = tomllib.loads((joining_home.path / "config.toml").read_text())
    assert written == {"ledger_url": database.url, **shared}


async def test_a_home_with_a_ledger_of_its_own_does_not_join(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    joining_home.make()
    (joining_home.path / "ledger.db").touch()
    with pytest.raises(InvalidInput, match="has a ledger already"):
        await join(database.url, file)
    assert not joining_home.ledger_key.exists()


@pytest.mark.parametrize("url", ["", "sqlite+aiosqlite:////x/ledger.db", "db.example"])
async def test_only_a_postgresql_address_can_be_joined(
    joining_home: Home, tmp_path: Path, url: str
) -> None:
    file = tmp_path / "invitation.json"
    await invite(f"sqlite+aiosqlite:///{tmp_path}/other.db", file, Home(tmp_path / "first"))
    with pytest.raises(InvalidInput, match=r"url"):
        await join(url, file)


async def test_settings_that_toml_cannot_have_are_escaped_or_left_out(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    limits = {"\U0001f600": ["a", '\x7f\n"\\'], "b": None, "c": {"d": None, "e": 1.5}}
    await invite(database.address, file, Home(tmp_path / "first"), shared={"limits": limits})
    await join(database.url, file)
    expected = {"\U0001f600": ["a", '\x7f\n"\\'], "c": {"e": 1.5}}
    assert settings.load().limits == expected


@pytest.mark.parametrize(
    ("shared", "message"),
    [({"limits": {"a": [None]}}, "TOML cannot have: limits"), ({"keep_days": -1}, "KEEP_DAYS")],
)
async def test_settings_that_this_home_cannot_have_are_refused(
    database: Postgresql,
    joining_home: Home,
    tmp_path: Path,
    shared: dict[str, Any],
    message: str,
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"), shared=shared, leader={})
    with pytest.raises(InvalidInput, match=message):
        await join(database.url, file)
    assert not joining_home.path.exists()


@pytest.mark.parametrize(
    ("ledger", "prefect", "field"),
    [
        ("postgresql://u:geheim@db/x", "http://127.0.0.1:4200/api", "Prefect"),
        ("postgresql://u:geheim@db/x", "http://LOCALHOST:4200/api", "Prefect"),
        ("postgresql://u:geheim@db/x", "http://ann:geheim@[::1]:4200/api", "Prefect"),
        ("postgresql://u:geheim@db/x", "http://0.0.0.0:4200/api", "Prefect"),
        ("postgresql://u:geheim@127.0.0.2/x", PREFECT, "ledger"),
        ("postgresql://u:geheim@localhost:5433/x", PREFECT, "ledger"),
        ("postgresql:///x?host=/run/postgresql", PREFECT, "ledger"),
        ("postgresql:///x", PREFECT, "ledger"),
    ],
)
async def test_a_server_that_only_this_machine_can_reach_is_refused(
    *,
    daybook_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ledger: str,
    prefect: str,
    field: str,
) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", ledger)
    with (
        temporary_settings({PREFECT_API_URL: prefect}),
        pytest.raises(InvalidInput, match=f"{field}: has an address that only") as error,
    ):
        await invitation.write(tmp_path / "invitation.json")
    assert "geheim" not in str(error.value)
    assert not (tmp_path / "invitation.json").exists()


async def test_a_ledger_in_a_file_has_no_invitations(daybook_home: Home, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a file of this machine"):
        await invitation.write(tmp_path / "invitation.json")
    assert not (tmp_path / "invitation.json").exists()


def test_the_settings_of_invitations_exist() -> None:
    names = {*shared_settings.NAMES, *invitation.LEADER_SETTINGS}
    assert names <= settings.all_settings().model_fields.keys()
    assert shared_settings.usual().keys() == set(shared_settings.NAMES)
    secret = [name for name in settings.all_settings().model_fields if invitation.is_secret(name)]
    assert not set(secret) & set(shared_settings.NAMES)
    assert "ping_url" in secret
