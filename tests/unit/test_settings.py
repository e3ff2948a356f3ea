"""Settings that would do harm are refused, by the name of the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook import settings
from daybook.errors import Refused


@pytest.mark.parametrize(
    "address",
    [
        "sqlite+aiosqlite:///ledger.db",
        "sqlite+aiosqlite:///~/ledger.db",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///file:ledger?mode=memory&uri=true",
        "sqlite:////ledger.db",
        "postgresql+asyncpg://localhost/ledger",
        "/ledger.db",
    ],
)
def test_the_ledger_is_one_file_whatever_the_folder(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", address)
    with pytest.raises(Refused, match="absolute path") as refused:
        settings.load()
    assert refused.value.field == "DAYBOOK_LEDGER_URL"


def test_an_absolute_path_and_none_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    assert settings.load().ledger_address == f"sqlite+aiosqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{tmp_path}/other.db")
    assert settings.load().ledger_address == f"sqlite+aiosqlite:///{tmp_path}/other.db"
