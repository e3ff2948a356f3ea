"""The `daybook heartbeat` commands: standing orders that an agent carries out regularly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.job_options import HeartbeatOptions
from daybook.cli.options import Json, prepare_prefect

if TYPE_CHECKING:
    from daybook.api.heartbeat import HeartbeatStatus

Name = Annotated[str, Parameter(help="Name of the heartbeat. [default: heartbeat]")]
_NO_OPTIONS = HeartbeatOptions()


async def on_(
    *,
    options: HeartbeatOptions = _NO_OPTIONS,
    name: Name = "heartbeat",
    as_json: Json = False,
) -> int:
    """Turn the heartbeat on, every 10 minutes by default.

    Each beat reads the file of standing orders. If it has text, the gate agent decides whether
    there is anything to do; if so, the main agent carries out the orders. Options you omit keep
    their values.

    Example: daybook heartbeat on --every 10m --gate-agent fast --channel inbox
    """
    prepare_prefect()

    status = await api.heartbeat.on(options.fields(), name)
    for note in () if as_json else status.notes:
        output.say(note)
    return _print_status(status, as_json)


async def off_(*, name: Name = "heartbeat", as_json: Json = False) -> int:
    """Turn the heartbeat off. Its options are kept for the next `on`.

    Example: daybook heartbeat off
    """
    prepare_prefect()

    return _print_status(await api.heartbeat.off(name), as_json)


async def status_(*, name: Name = "heartbeat", as_json: Json = False) -> int:
    """Show the heartbeat's state, its orders and its last outcome.

    Works without Prefect.

    Example: daybook heartbeat status
    """
    return _print_status(await api.heartbeat.status(name), as_json)


def _print_status(status: HeartbeatStatus, as_json: bool) -> int:
    if as_json:
        output.print_json(status)
        return 0
    job = status.job
    if job is None:
        output.line("There is no heartbeat.")
        output.fields([("orders", _orders_text(status))])
        output.say("Turn it on with: daybook heartbeat on")
        return 0
    last = job.last_run
    output.line(f"{job.name} is {formatting.enabled_state(job)}: {job.words}")
    pairs = [
        ("next due", "\n".join(map(formatting.due_time_with_utc, job.next_due)) or "-"),
        ("orders", _orders_text(status)),
        *(fact for fact in job.action.facts() if fact != job.action.brief()),
        ("notifies", formatting.notifications(job.recipients)),
        ("last beat", formatting.run_summary(last) if last else "none yet"),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    return 0


def _orders_text(status: HeartbeatStatus) -> str:
    state, file = status.orders, status.file
    return file if state == "there" else f"{file} is {state}, so each beat is skipped"
