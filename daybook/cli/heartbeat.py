"""The `daybook heartbeat` commands: standing orders that an agent checks regularly."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Group, Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Cron, Every, Json, Zone, prepare_prefect

_WHEN = Group("When", sort_key=1)
_WHAT = Group("What", sort_key=2)
_NOTIFICATIONS = Group("Notifications", sort_key=3)

Name = Annotated[str, Parameter(help="Which one, where there are several. Default: heartbeat.")]


async def on_(
    *,
    every: Every = None,
    cron: Cron = None,
    timezone: Zone = None,
    active_hours: Annotated[
        str | None, Parameter(group=_WHEN, help="Only from 08:00-22:00, say, by its clock.")
    ] = None,
    quiet_hours: Annotated[
        list[str] | None,
        Parameter(
            group=_WHEN,
            help="Not within 12:00-13:00, say; may be given several times. '' takes them all away.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        Parameter(group=_WHAT, help="The orders. Default: HEARTBEAT.md in Daybook's home."),
    ] = None,
    agent: Annotated[
        str | None, Parameter(group=_WHAT, help="The agent that is asked. Default: `default`.")
    ] = None,
    gate_agent: Annotated[
        str | None,
        Parameter(
            group=_WHAT,
            help="Who is asked first whether there is anything to do, a fast one. Default: the "
            "same agent. Pass '' to go back to that.",
        ),
    ] = None,
    model: Annotated[
        str | None, Parameter(group=_WHAT, help="The model, in place of the agent's own.")
    ] = None,
    session: Annotated[
        str | None,
        Parameter(
            group=_WHAT,
            help="reuse (the default): one conversation; new: each begins one; chat: that of its "
            "channel and chat id.",
        ),
    ] = None,
    session_key: Annotated[
        str | None,
        Parameter(group=_WHAT, help="A conversation that it shares with other jobs of the agent."),
    ] = None,
    channel: Annotated[
        str | None,
        Parameter(
            group=_NOTIFICATIONS, help="Where replies go, as `daybook channels list` shows them."
        ),
    ] = None,
    chat_id: Annotated[
        str | None, Parameter(group=_NOTIFICATIONS, help="Which chat of the channel.")
    ] = None,
    name: Name = "heartbeat",
    as_json: Json = False,
) -> int:
    """Switch the heartbeat on: every 10m, or as given. What is not given stays as it was.

    Every beat looks at the file of orders. Where it is missing or blank nobody is asked. Else the
    gate's agent says whether there is anything to do, and only then the agent is asked to do it.

    Example: daybook heartbeat on --every 10m --gate-agent fast --channel inbox
    """
    prepare_prefect()
    from daybook.api import heartbeat

    changes = {
        "every": every,
        "cron": cron,
        "timezone": timezone,
        "active_hours": active_hours,
        "quiet_hours": quiet_hours,
        "file": file,
        "agent": agent,
        "gate_agent": gate_agent,
        "model": model,
        "session": session,
        "session_key": session_key,
        "channel": channel,
        "chat_id": chat_id,
    }
    status = await heartbeat.on(changes, name)
    for note in status.pop("notes"):
        output.say(note)
    return _print_status(status, as_json)


async def off_(*, name: Name = "heartbeat", as_json: Json = False) -> int:
    """Switch the heartbeat off; what it was told stays for the next `on`.

    Example: daybook heartbeat off
    """
    prepare_prefect()
    from daybook.api import heartbeat

    return _print_status(await heartbeat.off(name), as_json)


async def status_(*, name: Name = "heartbeat", as_json: Json = False) -> int:
    """Show whether it is on, its orders, and the outcome of the last beat.

    Needs no Prefect.

    Example: daybook heartbeat status
    """
    from daybook.api import heartbeat

    return _print_status(await heartbeat.status(name), as_json)


def _print_status(status: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(status)
        return 0
    job = status["job"]
    if job is None:
        output.line("There is no heartbeat.")
        output.fields([("orders", _orders_text(status))])
        output.say("Switch it on: daybook heartbeat on")
        return 0
    last = job["last_run"]
    output.line(f"{job['name']} is {formatting.enabled_state(job)}: {job['words']}")
    pairs = [
        ("next due", "\n".join(map(formatting.due_time_with_utc, job["next_due"])) or "-"),
        ("orders", _orders_text(status)),
        ("gate", f"the agent {job['gate_agent'] or job['agent']}"),
        ("asks", f"the agent {job['agent']}"),
        ("told", formatting.notifications(job["told"])),
        ("last beat", formatting.run_summary(last) if last else "none yet"),
    ]
    output.fields([(name, value) for name, value in pairs if value])
    return 0


def _orders_text(status: dict[str, Any]) -> str:
    state = status["orders"]
    return str(status["file"]) + ("" if state == "there" else f" is {state}, so nobody is asked")
