"""A ledger of its own for each test, as the ledger's own tests have it."""

from __future__ import annotations

from tests.unit.ledger.conftest import book, clock

__all__ = ["book", "clock"]
