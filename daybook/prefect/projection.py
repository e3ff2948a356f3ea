"""What a job looks like in Prefect, in a form that compares.

==========  ================================================================================
cron        CronSchedule; six fields are rotated: ours has seconds first, Prefect's last
every       IntervalSchedule in UTC, whose anchor is compared as a phase only
at          RRuleSchedule with `DTSTART` in UTC and `COUNT=1`
on demand   no schedule
disabled    the deployment's pause; read as off when either that or the schedule's switch is off
name        the first line of the description, with the schedule in words
==========  ================================================================================

What Prefect can say and these cannot (another RRULE, seven fields, an interval below a second) is
read as `{"foreign": …}`; that, a second schedule and a schedule's own parameters stay Prefect's
own: they are told and left alone, and a job without another schedule is on demand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from daybook.errors import InvalidInput
from daybook.jobs.model import TAG_OF_OURS, Job
from daybook.jobs.store import StoredJob
from daybook.schedules.descriptions import in_words
from daybook.schedules.schedule import At, Cron, Every, OnDemand, Schedule
from daybook.validation import translated

if TYPE_CHECKING:
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

SLUG = "daybook"
"""What our schedule of a deployment is called there; edits in Prefect's UI keep it."""

_ONCE = re.compile(r"DTSTART(?:;TZID=[^:]+)?:(\d{8}T\d{6})Z?\s+RRULE:([\w=;]+)", re.ASCII)
_STAMP = "%Y%m%dT%H%M%S"
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Projection:
    """The fields of a deployment that a job decides; ``schedule`` in a normal form of our own."""

    enabled: bool
    schedule: dict[str, Any]
    parameters: dict[str, Any]
    tags: list[str]
    description: str

    def as_dict(self) -> dict[str, Any]:
        """As it is kept in the ledger."""
        return asdict(self)


def ledger_tag(ledger_id: str) -> str:
    """The tag of all deployments of one ledger (`promise.md` 15)."""
    return f"{TAG_OF_OURS}{ledger_id}"


def is_anothers(tags: Iterable[str] | None, ledger_id: str) -> bool:
    """Whether a deployment with these tags is another ledger's (`promise.md` 15)."""
    ledgers = {tag for tag in tags or () if tag.startswith(TAG_OF_OURS)}
    return bool(ledgers) and ledger_tag(ledger_id) not in ledgers


def of_job(stored: StoredJob, ledger_id: str) -> Projection:
    """What Prefect should hold of this job."""
    job = stored.job
    return Projection(
        enabled=job.enabled,
        schedule=_plain(job.schedule),
        parameters=job.parameters(),
        tags=[*job.tags, ledger_tag(ledger_id)],
        description=f"{_header(job)}\n\n{job.description}".strip(),
    )


def of_deployment(found: DeploymentResponse) -> Projection:
    """What Prefect holds."""
    ours = our_schedule(found)
    return Projection(
        enabled=not found.paused and (ours is None or ours.active),
        schedule={} if ours is None else _read(ours),
        parameters=dict(found.parameters or {}),
        tags=list(found.tags or []),
        description=found.description or "",
    )


def our_schedule(found: DeploymentResponse) -> DeploymentSchedule | None:
    """The one that is the job's: its slug is ours; where none has such a one, the oldest."""

    def rank(each: DeploymentSchedule) -> tuple[bool, datetime]:
        return not (each.slug or "").startswith(SLUG), each.created or datetime.max.replace(
            tzinfo=UTC
        )

    return min(found.schedules, key=rank, default=None)


def foreign_ids(found: DeploymentResponse) -> frozenset[str]:
    """The ids of the schedules that stay Prefect's own: no job says when they are due."""
    ours = our_schedule(found)
    return frozenset(
        str(each.id) for each in found.schedules if each is not ours or "foreign" in _read(each)
    )


def foreign(found: DeploymentResponse) -> list[str]:
    """What Prefect holds of schedules that no job can say, in words."""
    ours = our_schedule(found)
    told = []
    for each in found.schedules:
        plain = _read(each)
        if each is not ours:
            told.append(f"a second schedule, {_shown(plain)}")
        elif "foreign" in plain:
            told.append(_shown(plain))
        if each is ours and each.parameters:
            told.append(f"parameters on the schedule itself: {', '.join(sorted(each.parameters))}")
    return told


def _shown(plain: dict[str, Any]) -> str:
    return str(plain.get("foreign") or ", ".join(f"{key} {value}" for key, value in plain.items()))


def _header(job: Job) -> str:
    return f"**{job.name}** — {in_words(job.schedule)}"


def own_description(description: str) -> str:
    """A deployment's description without the line that `of_job` put before the user's words."""
    first, _, rest = description.partition("\n\n")
    is_header = first.startswith("**") and "** — " in first
    return (rest if is_header else description).strip()


def rotated(expr: str) -> str:
    """Six fields with seconds first as Prefect wants them, seconds last; five as they are."""
    fields = expr.split()
    return " ".join([*fields[1:], fields[0]]) if len(fields) == 6 else expr


def _back(expr: str) -> str:
    fields = expr.split()
    return " ".join([fields[-1], *fields[:-1]]) if len(fields) == 6 else expr


def _plain(schedule: Schedule) -> dict[str, Any]:
    match schedule:
        case Cron():
            return {"cron": rotated(schedule.expr), "timezone": schedule.timezone}
        case Every():
            seconds = int(schedule.every.total_seconds())
            return {"interval": seconds, "phase": int(schedule.anchor.timestamp()) % seconds}
        case At():
            return {"at": schedule.at.astimezone(UTC).strftime(_STAMP)}
        case OnDemand():
            return {}


def _read(given: DeploymentSchedule) -> dict[str, Any]:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    held = given.schedule
    if isinstance(held, CronSchedule):
        if not held.day_or or len(held.cron.split()) > 6:
            return {"foreign": f"cron {held.cron}"}
        return {"cron": held.cron, "timezone": held.timezone or "UTC"}
    if isinstance(held, IntervalSchedule):
        interval = held.interval
        seconds = interval.total_seconds()
        if seconds < 1 or seconds % 1:
            return {"foreign": f"interval {interval}"}
        # Also of a zoned one: Prefect counts from the anchor in UTC up to now, and follows the
        # wall clock only over the changes that still lie ahead.
        phase = int(held.anchor_date.timestamp()) % int(seconds)
        plain = {"interval": int(seconds), "phase": phase}
        zoned = interval >= _DAY and held.timezone not in (None, "UTC")
        return plain | ({"zoned": held.timezone} if zoned else {})
    if not isinstance(held, RRuleSchedule):
        return {"foreign": type(held).__name__}
    rule = held.rrule
    once = _ONCE.fullmatch(rule.strip())
    parts = dict(part.partition("=")[::2] for part in once[2].split(";")) if once else {}
    if once is None or parts.pop("COUNT", "") != "1" or parts.keys() - {"FREQ", "INTERVAL"}:
        return {"foreign": f"rrule {rule}"}
    # Whatever zone DTSTART names, Prefect reads its digits in the schedule's own.
    local = datetime.strptime(once[1], _STAMP).replace(tzinfo=ZoneInfo(held.timezone or "UTC"))
    return {"at": local.astimezone(UTC).strftime(_STAMP)}


def for_prefect(plain: dict[str, Any]) -> list[Any]:
    """The Prefect schedules of a normal form that `of_job` made: one, or none."""
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    if "cron" in plain:
        return [CronSchedule(cron=plain["cron"], timezone=plain["timezone"])]
    if "interval" in plain:
        anchor = datetime.fromtimestamp(plain["phase"], UTC)
        interval = timedelta(seconds=plain["interval"])
        return [IntervalSchedule(interval=interval, anchor_date=anchor, timezone="UTC")]
    if "at" in plain:
        rule = f"DTSTART:{plain['at']}Z\nRRULE:FREQ=DAILY;COUNT=1"
        return [RRuleSchedule(rrule=rule, timezone="UTC")]
    return []


def schedule_of(plain: dict[str, Any], timezone: str, edited_at: datetime) -> Schedule:
    """The schedule that Prefect holds, as ours.

    ``timezone`` is the job's, kept where Prefect does not carry one. Raises `InvalidInput` for one
    that Prefect can say and Daybook cannot.
    """
    try:
        with translated():
            return _schedule_of(plain, timezone, edited_at)
    except (ValueError, ArithmeticError) as error:
        # An anchor before the year 1, for instance: Prefect's intervals may be of any length.
        raise InvalidInput("schedule", f"Prefect's {_shown(plain)} cannot be kept here") from error


def _schedule_of(plain: dict[str, Any], timezone: str, edited_at: datetime) -> Schedule:
    if "foreign" in plain:
        raise InvalidInput(
            "schedule", f"Prefect's {plain['foreign']} cannot be kept here", "one cron, every or at"
        )
    if "cron" in plain:
        return Cron(expr=_back(plain["cron"]), timezone=plain["timezone"])
    if "interval" in plain:
        # The last due time up to the edit: what follows is the same whatever anchor Prefect has.
        seconds = plain["interval"]
        anchor = int(edited_at.timestamp())
        anchor -= (anchor - plain["phase"]) % seconds
        return Every(
            every=timedelta(seconds=seconds),
            anchor=datetime.fromtimestamp(anchor, UTC),
            timezone=timezone,
        )
    if "at" in plain:
        at = datetime.strptime(plain["at"], _STAMP).replace(tzinfo=UTC)
        return At(at=at, timezone=timezone)
    return OnDemand(timezone=timezone)
