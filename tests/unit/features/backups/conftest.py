"""Fixtures: a cheap key derivation, and a home for each test."""

from __future__ import annotations

import pytest

from daybook.features.backups import archive
from daybook.home import Home


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, daybook_home: Home) -> Home:
    monkeypatch.setattr(archive, "SCRYPT_COST", 2)
    return daybook_home
