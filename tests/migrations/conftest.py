from __future__ import annotations

import pytest

from daybook.ledger import schema
from tests import databases


@pytest.fixture(autouse=True)
def _product_migrates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate by Alembic, which other tests do not wait for."""
    monkeypatch.setattr(schema, "upgrade", databases.migrate)
