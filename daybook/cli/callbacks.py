"""The `daybook callbacks` commands, without the commands for destinations (`cli.destinations`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute, Limit, check_limit

if TYPE_CHECKING:
    from daybook.delivery.views import DeliveryAttempt, NotificationDetails


@command()
async def list_(
    *,
    status: Annotated[
        str | None, Parameter(help="List only this status: pending, delivered or failed.")
    ] = None,
    job: Annotated[str | None, Parameter(help="List only this job, current or removed.")] = None,
    limit: Limit = 50,
    absolute: Absolute = False,
) -> Answer:
    """List callbacks and messages, newest first.

    Works without Prefect.

    Example: daybook callbacks list --status failed
    """
    check_limit(limit)

    listed = await api.callbacks.list_callbacks(status, job, limit)
    yield listed
    if listed:
        when = formatting.time_format(absolute)
        created_heading = formatting.time_heading("CREATED", absolute)
        output.table(
            ("ID", "JOB", "EVENT", "TO", "STATUS", "TRIES", created_heading, "ERROR"),
            [
                (
                    formatting.short_id(each.id),
                    formatting.job_label(each),
                    each.event,
                    formatting.recipient(each),
                    each.status,
                    str(each.attempts),
                    when(each.created_at),
                    formatting.first_line(each.error),
                )
                for each in listed
            ],
            whole=("ID", "STATUS"),
            cut=True,
        )
    elif status or job:
        output.say("No callbacks or messages match.")
    else:
        output.say(
            "No callbacks or messages yet; a job sends them with --on-complete, --on-fail or "
            "--channel (`daybook add --help`)."
        )


@command()
async def show_(
    ref: Annotated[str, Parameter(name="ID", help="Id or unique prefix.")],
    /,
    *,
    absolute: Absolute = False,
) -> Answer:
    """Show a callback or a message: its body and the result of each attempt.

    Works without Prefect. Times are in this machine's time zone.

    Example: daybook callbacks show 5f0c22ab
    """
    callback = await api.callbacks.show(ref)
    yield callback
    _print_callback(callback, absolute)


@command()
async def retry_(
    *refs: Annotated[str, Parameter(name="ID", help="Ids or unique prefixes.")],
    failed: Annotated[bool, Parameter(help="Retry all failed callbacks and messages.")] = False,
) -> Answer:
    """Retry failed callbacks and messages, and try pending ones now.

    The leading keeper sends them, so a worker or `daybook keeper` must be running.

    Example: daybook callbacks retry --failed
    """
    count = await api.callbacks.retry(refs, failed=failed)
    yield {"retried": count}
    if count:
        output.line(f"Queued for another attempt: {count}")
        output.say("Follow them with: daybook callbacks list")
    else:
        output.say("No callback or message has failed.")


def _print_callback(callback: NotificationDetails, absolute: bool) -> None:
    when = formatting.time_format(absolute)
    job, to = formatting.job_label(callback), formatting.recipient(callback)
    line = f"{callback.event} of {job} to {to}"
    style = output.STYLES.get(callback.status, "")
    output.line(f"{line}: {callback.status}", style=f"bold {style}".strip())
    is_pending = callback.status == "pending"
    pairs = [
        ("purpose", callback.purpose),
        ("created", when(callback.created_at)),
        (
            "ended",
            when(callback.finished_at) if callback.finished_at else "",
        ),
        (
            "next try",
            formatting.next_try(callback.next_at, callback.paused_until) if is_pending else "",
        ),
        ("paused", _paused_until(callback)),
        ("tries", "\n".join(_attempt_line(each, when) for each in callback.tries) or "none yet"),
        ("note", callback.note),
        ("run", callback.run_id or ""),
        ("id", callback.id),
        ("subject", callback.subject),
        *formatting.time_zone_field(absolute),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    output.line()
    output.line("\n".join(f"  {each}".rstrip() for each in _body_text(callback).splitlines()))
    if callback.status == "failed":
        output.say(f"Retry it with: daybook callbacks retry {formatting.short_id(callback.id)}")


def _paused_until(callback: NotificationDetails) -> str:
    until = callback.paused_until
    return (
        f"until {formatting.local_time(until)}, because its destination failed too often"
        if until
        else ""
    )


def _attempt_line(attempt: DeliveryAttempt, when: formatting.TimeFormat) -> str:
    """Return an attempt as a line: `2026-11-20 09:00:01  0.1 s  500  the answer was 500 …`."""
    code = attempt.status_code
    parts = [
        when(attempt.at),
        formatting.duration(attempt.seconds),
        str(code or ""),
        attempt.error,
    ]
    return "  ".join(filter(None, parts))


def _body_text(callback: NotificationDetails) -> str:
    """Return the body of a message or callback. If the body of a callback is JSON, indent it."""
    if callback.purpose != "callback":
        return callback.body
    import json

    try:
        return json.dumps(json.loads(callback.body), ensure_ascii=False, indent=2)
    except ValueError:
        return callback.body
