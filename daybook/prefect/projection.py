"""The projection of a job into Prefect, in a form that can be compared.

==========  ================================================================================
cron        CronSchedule; six fields are rotated: ours has seconds first, Prefect's last
every       IntervalSchedule in UTC; only the phase of its anchor is compared
at          RRuleSchedule with `DTSTART` in UTC and `COUNT=1`
after       no schedule: the ledger starts the job's runs
on demand   no schedule
disabled    the deployment is paused; an inactive schedule disables the job as well
name        the first paragraph of the description (`daybook.prefect.summary`)
==========  ================================================================================

The normal form of any other schedule that Prefect can express is `{"foreign": …}`. Examples are
another RRULE, seven fields, and an interval with a fraction of a second. Such a schedule, a second
schedule, and a schedule's own parameters stay Prefect's own: Daybook reports them, and does not
change them. A job that has no other schedule is on demand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from daybook.errors import InvalidInput
from daybook.jobs.labels import RESERVED_TAG_PREFIX
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.prefect.summary import summary
from daybook.schedules.cron import read_fields
from daybook.schedules.schedule import At, Cron, Every, OnDemand, Schedule
from daybook.schedules.zones import FIRST_YEAR, LAST_YEAR
from daybook.validation import raising_invalid_input

if TYPE_CHECKING:
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

SCHEDULE_SLUG = "daybook"
"""Prefix of the slug of our schedule; edits in Prefect's UI keep the slug."""

_ONCE = re.compile(r"DTSTART(?:;TZID=[^:]+)?:(\d{8}T\d{6})Z?\s+RRULE:([\w=;]+)", re.ASCII)
_STAMP = "%Y%m%dT%H%M%S"
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Projection:
    """Fields of a deployment that a job determines; ``schedule`` is in Daybook's normal form."""

    enabled: bool
    schedule: JsonObject
    parameters: JsonObject
    tags: list[str]
    description: str

    def as_dict(self) -> JsonObject:
        """Return the projection in the form in which the ledger stores it."""
        return asdict(self)


def ledger_tag(ledger_id: str) -> str:
    """Return the tag of all deployments of one ledger; the runs inherit it."""
    return f"{RESERVED_TAG_PREFIX}{ledger_id}"


def belongs_to_other_ledger(tags: Iterable[str] | None, ledger_id: str) -> bool:
    """Return whether a deployment with these tags belongs to another ledger."""
    ledgers = {tag for tag in tags or () if tag.startswith(RESERVED_TAG_PREFIX)}
    return bool(ledgers) and ledger_tag(ledger_id) not in ledgers


def of_job(stored: StoredJob, ledger_id: str) -> Projection:
    """Return the fields that the job's deployment should have in Prefect."""
    job = stored.job
    return Projection(
        enabled=job.enabled,
        schedule=_normal_form(job.schedule),
        parameters=job.parameters(),
        tags=[*job.tags, ledger_tag(ledger_id)],
        description=f"{summary(job)}\n\n{job.description}".strip(),
    )


def agreement(expected: Projection, existing: DeploymentResponse | None) -> JsonObject:
    """Return the reconciled state in the form in which the ledger stores it.

    ``foreign`` describes the parts that stay Prefect's own, and ``job_variables`` has the names of
    the job variables that the job has set.
    """
    more: JsonObject = {}
    if unmanaged := describe_unmanaged(existing) if existing else []:
        more["foreign"] = unmanaged
    if named := sorted(expected.parameters["policy"]["job_variables"]):
        more["job_variables"] = named
    return expected.as_dict() | more


def named_variables(stored: StoredJob) -> list[str]:
    """Return the names of the job variables in the last agreement."""
    return list((stored.row.synced or {}).get("job_variables", ()))


def of_deployment(found: DeploymentResponse) -> Projection:
    """Return the fields that the deployment ``found`` has in Prefect."""
    ours = own_schedule(found)
    return Projection(
        enabled=not found.paused and (ours is None or ours.active),
        schedule={} if ours is None else _read_schedule(ours),
        parameters=dict(found.parameters or {}),
        tags=list(found.tags or []),
        description=found.description or "",
    )


def own_schedule(found: DeploymentResponse) -> DeploymentSchedule | None:
    """Return the oldest schedule with our slug, or else the oldest; None if there are none."""

    def rank(each: DeploymentSchedule) -> tuple[bool, datetime]:
        return not (each.slug or "").startswith(
            SCHEDULE_SLUG
        ), each.created or datetime.max.replace(tzinfo=UTC)

    return min(found.schedules, key=rank, default=None)


def unmanaged_schedule_ids(found: DeploymentResponse) -> frozenset[str]:
    """Return the ids of the schedules that stay Prefect's own; their due times belong to no job."""
    ours = own_schedule(found)
    return frozenset(
        str(each.id)
        for each in found.schedules
        if each is not ours or "foreign" in _read_schedule(each)
    )


def describe_unmanaged(found: DeploymentResponse) -> list[str]:
    """Describe the schedules and schedule parameters in Prefect that no job can express."""
    ours = own_schedule(found)
    descriptions = []
    for each in found.schedules:
        normal = _read_schedule(each)
        if each is not ours:
            descriptions.append(f"a second schedule, {_describe(normal)}")
        elif "foreign" in normal:
            descriptions.append(_describe(normal))
        if each is ours and each.parameters:
            descriptions.append(
                f"parameters on the schedule itself: {', '.join(sorted(each.parameters))}"
            )
    return descriptions


def _describe(normal: JsonObject) -> str:
    return str(
        normal.get("foreign") or ", ".join(f"{key} {value}" for key, value in normal.items())
    )


def to_prefect_cron(expr: str) -> str:
    """Return ``expr`` in Prefect's form, in which the seconds are the last of six fields.

    With six fields, Prefect accepts only 0 as Sunday, not 7.
    """
    fields = expr.split()
    if len(fields) != 6:
        return expr
    weekday = read_fields(expr).weekday
    if "7" in weekday.text:
        nth = (f"L{day}" if n < 0 else f"{day}#{n}" for day, n in sorted(weekday.nth))
        fields[5] = ",".join([*map(str, sorted(weekday.values)), *nth])
    return " ".join([*fields[1:], fields[0]])


def _normal_form(schedule: Schedule) -> JsonObject:
    match schedule:
        case Cron():
            return {"cron": to_prefect_cron(schedule.expr), "timezone": schedule.timezone}
        case Every():
            seconds = int(schedule.every.total_seconds())
            return {"interval": seconds, "phase": int(schedule.anchor.timestamp()) % seconds}
        case At():
            return {"at": schedule.at.astimezone(UTC).strftime(_STAMP)}
        case _:  # Prefect gets no schedule: the ledger or a person starts the runs
            return {}


def _read_schedule(given: DeploymentSchedule) -> JsonObject:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    schedule = given.schedule
    if isinstance(schedule, CronSchedule):
        if not schedule.day_or or len(schedule.cron.split()) > 6:
            return {"foreign": f"cron {schedule.cron}"}
        return {"cron": schedule.cron, "timezone": schedule.timezone or "UTC"}
    if isinstance(schedule, IntervalSchedule):
        interval = schedule.interval
        seconds = interval.total_seconds()
        if seconds < 1 or seconds % 1:
            return {"foreign": f"interval {interval}"}
        # This applies to a schedule with a zone too: Prefect counts from the anchor in UTC up to
        # now, and follows the wall clock only across later clock changes.
        phase = int(schedule.anchor_date.timestamp()) % int(seconds)
        normal = {"interval": int(seconds), "phase": phase}
        zoned = interval >= _DAY and schedule.timezone not in (None, "UTC")
        return normal | ({"zoned": schedule.timezone} if zoned else {})
    if not isinstance(schedule, RRuleSchedule):
        return {"foreign": type(schedule).__name__}
    rule = schedule.rrule
    match = _ONCE.fullmatch(rule.strip())
    parts = dict(part.partition("=")[::2] for part in match[2].split(";")) if match else {}
    if match is None or parts.pop("COUNT", "") != "1" or parts.keys() - {"FREQ", "INTERVAL"}:
        return {"foreign": f"rrule {rule}"}
    # Prefect ignores the zone of DTSTART and interprets its digits in the schedule's zone.
    local = datetime.strptime(match[1], _STAMP).replace(tzinfo=ZoneInfo(schedule.timezone or "UTC"))
    if not FIRST_YEAR <= local.year <= LAST_YEAR:
        return {"foreign": f"rrule {rule}"}
    return {"at": local.astimezone(UTC).strftime(_STAMP)}


def to_prefect_schedules(plain: JsonObject) -> list[Any]:
    """Return the Prefect schedules for a normal form from `of_job`: one schedule, or none."""
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


def to_schedule(plain: JsonObject, timezone: str, edited_at: datetime) -> Schedule:
    """Return the `Schedule` for a normal form.

    ``timezone`` is the job's time zone, for a normal form that has no zone. An interval is anchored
    at its last due time up to ``edited_at``. Raise `InvalidInput` for a schedule that Prefect can
    express but Daybook cannot.
    """
    try:
        with raising_invalid_input():
            return _schedule_of(plain, timezone, edited_at)
    except (ValueError, ArithmeticError) as error:
        # For example an anchor before the year 1: Prefect's intervals may be arbitrarily long.
        raise InvalidInput(
            "schedule", f"Daybook cannot express Prefect's {_describe(plain)}"
        ) from error


def _schedule_of(normal: JsonObject, timezone: str, edited_at: datetime) -> Schedule:
    if "foreign" in normal:
        raise InvalidInput(
            "schedule",
            f"Daybook cannot express Prefect's {normal['foreign']}",
            "use one cron, every or at",
        )
    if "cron" in normal:
        expr = normal["cron"]
        if len(fields := expr.split()) == 6:  # Prefect expects the seconds last
            expr = " ".join([fields[-1], *fields[:-1]])
        return Cron(expr=expr, timezone=normal["timezone"])
    if "interval" in normal:
        # Use the last due time up to the edit as the anchor. The later due times are the same as
        # with Prefect's own anchor.
        seconds = normal["interval"]
        anchor = int(edited_at.timestamp())
        anchor -= (anchor - normal["phase"]) % seconds
        return Every(
            every=timedelta(seconds=seconds),
            anchor=datetime.fromtimestamp(anchor, UTC),
            timezone=timezone,
        )
    if "at" in normal:
        at = datetime.strptime(normal["at"], _STAMP).replace(tzinfo=UTC)
        return At(at=at, timezone=timezone)
    return OnDemand(timezone=timezone)
