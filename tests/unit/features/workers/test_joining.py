"""Invitations, and the checks with which a home joins a ledger: a refusal writes nothing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from daybook import __version__, settings
from daybook import home as homes
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.features.workers import invitation, joining
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.resources import copies, encryption
from tests import databases
from tests.databases import Postgresql

pytestmark = pytest.mark.anyio

PREFECT = "http://prefect.example:4200/api"


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Postgresql:
    found = databases.of_kind("postgresql", tmp_path / "db", databases.server_of(request))
    assert isinstance(found, Postgresql)
    return found


@pytest.fixture
def joining_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a new home, in which Prefect answers at the invitation's address."""
    home = Home(tmp_path / "second")
    monkeypatch.setenv("DAYBOOK_HOME", str(home.path))

    async def answers(invited: invitation.Invitation) -> str:
        return invited.prefect_api_url

    monkeypatch.setattr(joining, "_check_prefect", answers)
    monkeypatch.setattr(homes, "is_configured_by_user", lambda: False)
    return home


async def invite(address: str, file: Path, first: Home, **changes: Any) -> None:
    """Write an invitation to the ledger at ``address`` whose key is that of the home ``first``."""
    async with Ledger(address) as ledger:
        async with ledger.write() as session:
            await copies.get_or_create_key(session, first.make())
        content = {
            "version": __version__,
            "ledger_id": ledger.id,
            "ledger_key": first.ledger_key.read_text().strip(),
            "prefect_api_url": PREFECT,
            "prefect_auth": "ann:geheim",
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

    joined = await joining.join(database.url, file)

    shared = {"timezone": "Europe/Berlin", "max_concurrent": 9, "max_per_agent": {"a": 2}}
    assert joined.settings == shared
    written = tomllib.loads((joining_home.path / "config.toml").read_text())
    assert written == {"ledger_url": database.url, **joined.settings}
    assert joining_home.ledger_key.read_text() == first.ledger_key.read_text()
    assert joining_home.read_joined_prefect() == (PREFECT, "ann:geheim")
    for each in ("config.toml", "ledger-key", "prefect-server.json"):
        assert (joining_home.path / each).stat().st_mode & 0o777 == 0o600
    before = (joining_home.path / "config.toml").read_bytes()
    assert settings.load().max_concurrent == 9
    await joining.join(database.url, file)
    assert (joining_home.path / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.0.1"}, "version: is .* here, 0.0.1 there"),
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
        await joining.join(database.url, file)
    assert "geheim" not in str(error.value)
    assert not joining_home.path.exists()


async def test_a_setting_that_differs_is_refused(
    database: Postgresql, joining_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    with pytest.raises(InvalidInput, match='timezone is "UTC" here, "Europe/Berlin" there'):
        await joining.join(database.url, file)
    assert not joining_home.path.exists()


async def test_a_database_without_a_ledger_stays_empty(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    await invite(f"sqlite+aiosqlite:///{tmp_path}/other.db", file, Home(tmp_path / "first"))
    with pytest.raises(InvalidInput, match="contains no ledger"):
        await joining.join(database.url, file)
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
        await joining.join(database.url, file)
    assert not joining_home.path.exists()


async def test_a_home_with_a_ledger_of_its_own_does_not_join(
    database: Postgresql, joining_home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "invitation.json"
    await invite(database.address, file, Home(tmp_path / "first"))
    joining_home.make()
    (joining_home.path / "ledger.db").touch()
    with pytest.raises(InvalidInput, match="has a ledger already"):
        await joining.join(database.url, file)
    assert not joining_home.ledger_key.exists()


@pytest.mark.parametrize("url", ["", "sqlite+aiosqlite:////x/ledger.db", "db.example"])
async def test_only_a_postgresql_address_can_be_joined(
    joining_home: Home, tmp_path: Path, url: str
) -> None:
    file = tmp_path / "invitation.json"
    await invite(f"sqlite+aiosqlite:///{tmp_path}/other.db", file, Home(tmp_path / "first"))
    with pytest.raises(InvalidInput, match=r"url"):
        await joining.join(url, file)


async def test_a_ledger_in_a_file_has_no_invitations(daybook_home: Home, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a file of this machine"):
        await invitation.write(tmp_path / "invitation.json")
    assert not (tmp_path / "invitation.json").exists()


def test_the_shared_settings_exist() -> None:
    assert set(invitation.SHARED_SETTINGS) <= settings.all_settings().model_fields.keys()
    assert invitation.usual().keys() == set(invitation.SHARED_SETTINGS)
