"""The `daybook heartbeat` commands: standing orders that an agent carries out regularly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.job_options import HeartbeatOptions

if TYPE_CHECKING:
    from daybook.features.heartbeat.operations import HeartbeatStatus

Name = Annotated[str, Parameter(help="Name of the heartbeat. [default: heartbeat]")]
_NO_OPTIONS = HeartbeatOptions()


@command(uses_prefect=True)
async def on_(
    *,
    options: HeartbeatOptions = _NO_OPTIONS,
    name: Name = "heartbeat",
) -> Answer:
    """Turn the heartbeat on, every 10 minutes by default.

    Each beat reads the file of standing orders. If it has text, the gate agent decides whether
    there is anything to do; if so, the main agent carries out the orders. Options you omit keep
    their values.

    Example: daybook heartbeat on --every 10m --gate-agent fast --channel inbox
    """
    from daybook.features.heartbeat import operations

    status = await operations.on(options.fields(), name)
    yield status
    for note in status.notes:
        output.say(note)
    _print_status(status)


@command(uses_prefect=True)
async def off_(*, name: Name = "heartbeat") -> Answer:
    """Turn the heartbeat off. Its options are kept for the next `on`.

    Example: daybook heartbeat off
    """
    from daybook.features.heartbeat import operations

    yield (answer := await operations.off(name))
    _print_status(answer)


@command()
async def status_(*, name: Name = "heartbeat") -> Answer:
    """Show the heartbeat's state, its orders and its last outcome.

    Works without Prefect.

    Example: daybook heartbeat status
    """
    from daybook.features.heartbeat import operations

    yield (answer := await operations.status(name))
    _print_status(answer)


def _print_status(status: HeartbeatStatus) -> None:
    job = status.job
    if job is None:
        output.line("There is no heartbeat.")
        output.fields([("orders", _orders_text(status))])
        output.say("Turn it on with: daybook heartbeat on")
        return
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


def _orders_text(status: HeartbeatStatus) -> str:
    state, file = status.orders, status.file
    return file if state == "there" else f"{file} is {state}, so each beat is skipped"
