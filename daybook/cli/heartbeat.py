"""The `daybook heartbeat` commands: standing orders that an agent checks regularly."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.job_options import HeartbeatOptions
from daybook.cli.options import Json, prepare_prefect

Name = Annotated[str, Parameter(help="Name of the heartbeat. [default: heartbeat]")]
_NO_OPTIONS = HeartbeatOptions()


async def on_(
    *,
    options: HeartbeatOptions = _NO_OPTIONS,
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

    status = await heartbeat.on(options.fields(), name)
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
