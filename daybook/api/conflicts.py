"""What was changed on both sides: showing it, and deciding it (requirement 52)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger.engine import Ledger, open_ledger
from daybook.prefect import links as records

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

Side = Literal["ledger", "prefect"]
SIDES: tuple[Side, ...] = ("ledger", "prefect")


async def conflicts() -> list[dict[str, Any]]:
    """`{"job", "id", "at", "fields": {name: {"ledger", "prefect"}}}` for each job with one.

    ``ledger`` is the job as it is now, in the form in which Prefect holds it; ``prefect`` what lost
    there at that time. Needs no Prefect.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        found = [await store.get(session, each) for each in await records.in_conflict(session)]
        return [_shown(ledger, each) for each in found if each is not None]


def _shown(ledger: Ledger, stored: StoredJob) -> dict[str, Any]:
    from daybook.prefect import projection

    held = stored.row.conflict or {"at": None, "fields": {}}
    ours = projection.of_job(stored, ledger.id).as_dict()
    return {
        "job": stored.row.name,
        "id": stored.id,
        "at": held["at"],
        "fields": {
            name: {"ledger": ours[name], "prefect": theirs}
            for name, theirs in held["fields"].items()
        },
    }


def side(given: str) -> Side:
    """The side that is preferred. Raises `InvalidInput`."""
    for each in SIDES:
        if given == each:
            return each
    raise InvalidInput("prefer", f'"{given}" is not legal', f"legal: {' or '.join(SIDES)}")


async def decide(
    ledger: Ledger, prefer: Side, ref: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide the conflict of ``ref``, or all; the ledger has the result afterwards.

    Returns the names of the jobs whose conflict is decided, by their ids; and, by name, why others
    are not: what Prefect held cannot be a job's. Of one that is named this is `InvalidInput`; so is
    one without a conflict.
    """
    from daybook.prefect import import_edits

    async with ledger.read() as session:
        ids = await records.in_conflict(session)
        named = await store.find(session, ref) if ref else None
        names = {each.id: each.row.name for each in await store.every(session, ids)}
    if named is not None:
        if named.id not in ids:
            none = f"{named.row.name} has no conflict"
            raise InvalidInput("JOB", none, "`daybook conflicts` lists them")
        ids = [named.id]
    decided, refused = dict[str, str](), dict[str, str]()
    for job_id in ids:
        try:
            if prefer == "prefect":
                await import_edits.take_losing(ledger, job_id)
            else:
                async with ledger.write() as session:
                    await records.without_conflict(session, job_id)
            decided[job_id] = names[job_id]
        except InvalidInput as error:
            if named is not None:
                raise
            refused[names[job_id]] = str(error)
    return decided, refused
