"""The restore of a ledger from a backup: runs whose rows were written after the backup are unknown.

::

    ──── backup ─────────────── restore ────► time
          │  rows written here    │
          │  are lost             ├─ a run without a row, due by the restore ──────► missed
          └───────────────────────┴─ a run whose row is always written first ─────► missed

A run of the second kind is a request or a chained run: Prefect still has its flow run, and the
ledger has lost its row. No run of either kind starts (promise 18: a restore repeats nothing),
because the run may have had its effect. The restore records itself in the table `Fact`, and ends
the runs that the ledger still has.
"""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.ledger.tables import Fact
from daybook.runs import claim_requests
from daybook.runs.claim_requests import ClaimRequest

FACT_KEY = "restored"
_REASON = "restored from a backup of"


class Restore(BaseModel, frozen=True):
    """The last restore: the time of its ``backup``, and the time ``at`` of the restore (UTC)."""

    backup: AwareDatetime
    at: AwareDatetime

    @property
    def reason(self) -> str:
        return f"{_REASON} {self.backup:%Y-%m-%d %H:%M:%S} UTC"

    def lost(self, request: ClaimRequest) -> bool:
        """Return whether the restore may have lost the row of this run, which has no row now."""
        own = request.occurrence == claim_requests.flow_key(str(request.flow_run_id))
        return request.due <= self.at or not (own or claim_requests.is_due_key(request.occurrence))


def is_reason(text: str) -> bool:
    """Return whether ``text`` is the reason of an outcome that a restore recorded."""
    return text.startswith(_REASON)


async def read(session: AsyncSession) -> Restore | None:
    """Return the last restore of this ledger; None if there was none."""
    fact = await session.get(Fact, FACT_KEY)
    return parse(fact.value if fact else None)


def parse(value: str | None) -> Restore | None:
    """Return the last restore from the fact's ``value``; None if there was none."""
    return None if value is None else Restore.model_validate_json(value)


async def write(session: AsyncSession, restore: Restore) -> None:
    await session.merge(Fact(key=FACT_KEY, value=restore.model_dump_json()))
