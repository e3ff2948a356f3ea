"""The `daybook sync` and `daybook conflicts` commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command

if TYPE_CHECKING:
    from daybook.api.sync import SyncReport


@command(uses_prefect=True)
async def sync_(
    job: Annotated[
        str | None,
        Parameter(name="JOB", help="Resolve only this job's conflict; requires --prefer."),
    ] = None,
    /,
    *,
    prefer: Annotated[
        str | None,
        Parameter(help="Side that wins each conflict: `ledger` or `prefect`."),
    ] = None,
) -> Answer:
    """Reconcile the ledger and Prefect in both directions.

    If the work pool is missing, creates it. If a job was changed on both sides, the ledger's values
    are kept, and `daybook conflicts` shows both. Exits with 1 if a job cannot be reconciled.

    Example: daybook sync --prefer prefect morning-brief
    """
    report = await api.sync.sync(prefer, job)
    yield report, 1 if report.failed else 0
    for change in ("created", "updated", "pulled", "removed"):
        for name in getattr(report, change):
            output.line(f"{_LABELS[change]} {name}")
    for line in notable_changes(report):
        output.line(line)
    for name, why in report.foreign.items():
        output.line(f"left unchanged in Prefect: {name} ({why})")
    decided = report.decided if isinstance(report, api.sync.DecidedSyncReport) else []
    for name in decided:
        output.line(f"resolved for {prefer}: {name}")
    output.say(f"{report.unchanged} unchanged, {report.writes} written to Prefect.")


@command()
async def conflicts_() -> Answer:
    """List conflicts: fields changed in both the ledger and Prefect, or invalid in Prefect.

    The ledger's values apply. `daybook sync --prefer prefect JOB` uses Prefect's values
    instead; `--prefer ledger` discards them. Works without Prefect.

    Example: daybook conflicts --json
    """
    listed = await api.conflicts.list_conflicts()
    yield listed
    for each in listed:
        output.line(f"{each.job} ({formatting.local_time(each.at)})", style="bold")
        for name, versions in each.fields.items():
            in_ledger, in_prefect = _differences(versions.ledger, versions.prefect)
            values = [
                (f"{name} in ledger", _text(in_ledger)),
                (f"{name} in Prefect", _text(in_prefect)),
            ]
            output.fields([*values, *([("invalid", versions.invalid)] if versions.invalid else [])])
    if not listed:
        output.say("No conflicts.")


def _differences(in_ledger: Any, in_prefect: Any) -> tuple[Any, Any]:
    """Return two objects with only their differing keys. Return other values unchanged."""
    if not isinstance(in_ledger, dict) or not isinstance(in_prefect, dict):
        return in_ledger, in_prefect
    names = [
        name for name in {**in_ledger, **in_prefect} if in_ledger.get(name) != in_prefect.get(name)
    ]
    return _subset(in_ledger, names), _subset(in_prefect, names)


def _subset(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def notable_changes(report: SyncReport) -> Iterator[str]:
    """Yield a line for each unexpected change and each failure of a sync."""
    for name in report.adopted:
        yield f"adopted from Prefect: {name}"
    for name in report.remade:
        yield f"missing in Prefect, recreated: {name}"
    for name in report.deleted:
        yield f"disabled, because its deployment in Prefect was deleted: {name}"
    for name, fields in report.conflicts.items():
        yield f"changed on both sides, kept the ledger's values: {name} ({', '.join(fields)})"
    for kind in ("refused", "failed"):
        for name, why in getattr(report, kind).items():
            yield f"{_LABELS[kind]} {name} ({why})"


_LABELS = {
    "created": "created in Prefect:",
    "updated": "updated in Prefect:",
    "pulled": "imported from Prefect:",
    "removed": "removed from Prefect:",
    "refused": "edited in Prefect, not imported:",
    "failed": "not reconciled:",
}
