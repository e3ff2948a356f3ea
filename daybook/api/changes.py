"""The query by which `daybook.web.live` detects that the data of the pages has changed.

The modification time of the ledger's file cannot serve this purpose: the keeper writes leases,
leadership and the audit's watermarks to the ledger every few seconds. So the query reads counts,
sums and newest times of the data that the pages show. Each part of the query uses an index or reads
only a few rows: live runs and their steps, jobs, pending deliveries. Features add parts for their
pages.

The query misses some changes. For example, it does not notice if the audit adds a due time to an
existing row of missed due times. `daybook.web.live` also updates the pages every minute, so they
show such a change then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import CompoundSelect, Select, String, case, cast, func, literal, null, union_all
from sqlalchemy import select as select_columns
from sqlmodel import col

from daybook import feature, owners
from daybook.delivery import outbox
from daybook.ledger.credential_tables import TokenRow
from daybook.ledger.engine import reading
from daybook.ledger.states import LIVE, Delivery, Status
from daybook.ledger.tables import JobRow, OutboxRow, QueueRow, RunRow, StepRow

REVOCABLE = "revocable"
"""Name of the `part`s whose first value is the id of a session that can be revoked."""
_COLUMNS = 8


@dataclass(frozen=True)
class Changes:
    """Summary of the data that the pages show, for comparison with an earlier summary.

    If the data changes, ``text`` changes, except for the changes that the query misses. ``valid``
    are the ids of the tokens of shared links, and of the devices.
    """

    text: str
    valid: frozenset[str]


async def read() -> Changes:
    """Return the current summary. Raise `LedgerUnreachable`."""
    async with reading() as session:
        rows = [tuple(each) for each in await session.execute(_query())]
    valid = frozenset(str(row[1]) for row in rows if row[0] == REVOCABLE)
    return Changes(repr([row for row in rows if row[0] != REVOCABLE]), valid)


@cache
def _query() -> CompoundSelect[Any]:
    runs, jobs, sent, step = RunRow, JobRow, OutboxRow, StepRow
    failed = col(sent.status) == outbox.sql_literal(Delivery.FAILED)
    return union_all(
        part(REVOCABLE, TokenRow.id).where(col(TokenRow.owner) == owners.VIEWER),
        part(
            "live runs",
            func.count(col(runs.id)),
            func.sum(one_if(col(runs.status) == Status.RUNNING)),
            func.sum(one_if(col(runs.status) == Status.WAITING)),
            func.sum(runs.fence),
            func.sum(runs.attempts),
            func.max(runs.queued_at),
        ).where(col(runs.status).in_([*LIVE])),
        part(
            "live steps",
            func.count(col(step.run_id)),
            func.count(col(step.finished_at)),
            func.sum(one_if(col(step.finished_at).is_(None)) * func.length(col(step.output))),
        )
        .select_from(step)
        .join(runs, col(runs.id) == col(step.run_id))
        .where(col(runs.status).in_([*LIVE])),
        part("ended runs", func.max(runs.finished_at)).where(col(runs.finished_at).is_not(None)),
        part(
            "jobs",
            func.count(col(jobs.archived_at)),
            func.max(jobs.updated_at),
            func.sum(jobs.revision),
            func.sum(jobs.run_count),
            func.count(col(jobs.conflict)),
            func.sum(one_if(col(jobs.sync_pending))),
            func.max(jobs.snoozed_until),
            func.sum(func.length(cast(jobs.skips, String))),
        ),
        part("deliveries", func.max(sent.created_at)),
        part(
            "pending", func.count(col(sent.id)), func.min(sent.next_at), func.max(sent.next_at)
        ).where(outbox.PENDING),
        part("failed", func.count(col(sent.id)), func.max(sent.finished_at)).where(failed),
        part("unread", func.count(col(sent.id))).where(outbox.UNREAD),
        part("destinations", func.count(col(QueueRow.queue)), func.max(QueueRow.paused_until)),
        *_parts_of_features(),
    )


def _parts_of_features() -> list[Select[Any]]:
    found = list[Select[Any]]()
    for each in feature.features():
        if each.changes:
            with feature.leaving_out(each, "changes"):
                made = list(each.load(each.changes)())
                if any(len(query.selected_columns) != _COLUMNS + 1 for query in made):
                    raise TypeError(f"{each.changes} returned something that is no `part`")
                found += made
    return found


def part(name: str, *values: Any) -> Select[Any]:
    """Return a query for a row of `_COLUMNS` + 1 texts: ``name``, ``values``, and nulls."""
    texts = [cast(each, String) for each in values]
    texts += [cast(null(), String)] * (_COLUMNS - len(values))
    return select_columns(literal(name), *texts)


def one_if(condition: Any) -> Any:
    """Return 1 if the condition is true, otherwise 0."""
    return case((condition, 1), else_=0)
