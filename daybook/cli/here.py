"""`daybook up`, `down`, `status`, `doctor`, `worker`: this machine as a whole."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import output, sync, words
from daybook.cli.options import Json
from daybook.cli.prefect_first import prefect_first
from daybook.errors import Refused


async def up_(
    *,
    browser: Annotated[
        bool,
        Parameter(negative="--no-browser", help="Open the Prefect UI when all is ready."),
    ] = True,
    detach: Annotated[
        bool, Parameter(help="Go on in the background; return when all is ready.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Start everything on this machine, and show what becomes of each run.

    Prefect's server (unless one is configured), its UI and a worker; at the first start also an
    example job, run once. Stays in the foreground until Ctrl-C, SIGTERM or `daybook down`. With
    --json: a line `{"ready": …}`, then a line `{"run": …}` for each run that ends.

    Example: daybook up --no-browser
    """
    from daybook.service.doctoring import installation

    installation.refuse_wrong()
    prefect_first()
    from daybook.service import up

    talk = JsonTalk() if as_json else Talk(browser=browser, detached=detach)
    await (up.detach(talk) if detach else up.up(talk))
    return 0


async def down_(*, as_json: Json = False) -> int:
    """Stop what `daybook up` started here, and what a killed one left.

    Example: daybook down
    """
    prefect_first()
    from daybook.service.up import down

    stopped = await down()
    if as_json:
        output.data({"stopped": stopped})
    else:
        output.say("Stopped." if stopped else "Nothing ran here.")
    return 0


async def status_(*, as_json: Json = False) -> int:
    """Show what runs, what is due soon, and what is wrong.

    Exit code 0 when it is ready: Prefect answers and a worker of this Daybook is online.

    Example: daybook status --json
    """
    prefect_first()
    from daybook.service import status

    found = await status.status()
    if as_json:
        output.data(found)
    else:
        _status(found)
    return 0 if found["ready"] else 1


def worker_(
    *,
    pool: Annotated[str, Parameter(help="The work pool.", show_default=True)] = "daybook",
    limit: Annotated[
        int | None, Parameter(help="How many runs it may have at once; default: any number.")
    ] = None,
    name: Annotated[
        str | None, Parameter(help="Its name in Prefect. Default: this machine and home.")
    ] = None,
    once: Annotated[bool, Parameter(help="Run what is due now, and end.")] = False,
) -> int:
    """Run jobs here, beside the worker of `daybook up` or without one.

    It takes what is due in its pool, until Ctrl-C or SIGTERM; what is at work then has 10 seconds
    to end by itself. The same as `prefect worker start --type daybook`.

    Example: daybook worker --limit 2
    """
    if limit is not None and limit < 1:
        raise Refused("limit", f"{limit} is not legal", "legal: 1 or more")
    from daybook.service.doctoring import installation

    installation.refuse_wrong()
    prefect_first()
    from daybook import home as homes
    from daybook.host import worker

    command = worker.command(homes.here(), pool=pool, limit=limit, name=name, once=once)
    sys.stdout.flush()
    os.execv(command[0], command)


async def keeper_() -> int:
    """Keep ledger and Prefect in agreement, and give each due time its outcome.

    Each worker does that too: of all workers and keepers of a ledger one leads, the others stand
    by. Alone it is for machines that run no jobs. Until Ctrl-C or SIGTERM.

    Example: daybook keeper
    """
    from daybook.service.doctoring import installation

    installation.refuse_wrong()
    prefect_first()
    from daybook.service import keeper

    await keeper.keep(output.say)
    return 0


async def doctor_(*, as_json: Json = False) -> int:
    """Look for what is wrong here, and say how to mend it.

    A line for each check: versions, home, ledger, Prefect, pool, worker, jobs. Exit code 0 when all
    is well.

    Example: daybook doctor
    """
    from daybook.service import doctor

    found = await doctor.doctor()
    if as_json:
        output.data(found)
    else:
        _findings(found)
    return 0 if all(each["ok"] for each in found) else 1


def _say_synced(report: dict[str, Any]) -> None:
    done = ("created", "updated", "pulled", "removed")
    if any(report[each] for each in done):
        counts = ", ".join(f"{len(report[each])} {_COUNTED[each]}" for each in done)
        output.say(f"Synced with Prefect: {counts}")
    for told in sync.surprises(report):
        output.say(f"! {told}")


_COUNTED = {
    "created": "created",
    "updated": "updated",
    "pulled": "taken over",
    "removed": "removed",
}


class Talk:
    """What `up` shows a person (`daybook.service.up.UpTalk`)."""

    def __init__(self, *, browser: bool, detached: bool = False) -> None:
        self._browser = browser
        self._end = "`daybook down` stops it." if detached else "Ctrl-C stops everything."

    def say(self, line: str) -> None:
        output.say(line)

    def synced(self, report: dict[str, Any]) -> None:
        _say_synced(report)

    def ready(self, facts: dict[str, Any]) -> None:
        output.line("Ready.", style="bold green")
        jobs = f"{facts['jobs']} (`daybook list` shows them)"
        export = f"export PREFECT_API_URL={facts['api_url']}"
        health = f"{facts['web_url']}/health" if facts["web_url"] else ""
        told = [
            ("Prefect UI", facts["ui_url"]),
            ("jobs", jobs),
            ("ledger", facts["ledger"]),
            ("health", health),
            ("for prefect", export),
        ]
        output.facts([(name, value) for name, value in told if value])
        if facts["example"]:
            output.say(f"Running the example job {facts['example']} now; {self._end}")
        else:
            output.say(self._end)
        if self._browser and sys.stdout.isatty() and facts["ui_url"] and display_likely():
            import webbrowser

            webbrowser.open(facts["ui_url"])

    def outcome(self, run: dict[str, Any]) -> None:
        from daybook.cli.runs import show_run

        show_run(run)


class JsonTalk:
    """What `up --json` tells a program: a line of JSON for each event."""

    def say(self, line: str) -> None:
        output.say(line)

    def synced(self, report: dict[str, Any]) -> None:
        _say_synced(report)

    def ready(self, facts: dict[str, Any]) -> None:
        output.record({"ready": facts})

    def outcome(self, run: dict[str, Any]) -> None:
        output.record({"run": run})


def display_likely() -> bool:
    """Whether a browser opened here would be seen by whoever typed the command."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _findings(found: list[dict[str, Any]]) -> None:
    width = max(len(each["check"]) for each in found)
    for each in found:
        word = "ok" if each["ok"] else "problem"
        told = "; mend: ".join(filter(None, (each["problem"], each["mend"])))
        style = "green" if each["ok"] else "red"
        output.line(f"{word:<7}  {each['check']:<{width}}  {told}".rstrip(), style=style)


def _workers(online: list[dict[str, Any]]) -> str:
    ours = ", ".join(each["name"] for each in online if each["ours"]) or "none is online"
    others = ", ".join(each["name"] for each in online if not each["ours"])
    return ours + (f"\n(another Daybook's: {others})" if others else "")


def _keeper(keeper: dict[str, Any]) -> str:
    if not keeper["running"]:
        return "none leads"
    seen = keeper["observed_at"]
    return str(keeper["holder"]) + (
        f", has observed Prefect at {words.local(seen)}" if seen else ""
    )


def _outbox(outbox: dict[str, Any]) -> str:
    """`3 pending, the oldest since …; 1 failed`."""
    pending, failed = outbox["pending"], outbox["failed"]
    since = words.local(outbox["oldest_pending_at"])
    told = [f"{pending:,} pending, the oldest since {since}" if pending else ""]
    told.append(f"{failed:,} failed: `daybook callbacks list --status failed`" if failed else "")
    return "; ".join(filter(None, told)) or "nothing waits"


def _tasks(tasks: dict[str, Any]) -> list[tuple[str, str]]:
    """`2 queued, 1 claimed; sessions: 1 free, 1 busy`; no line where there are none."""
    live = [f"{tasks[each]} {each.replace('_', ' ')}" for each in _LIVE_TASKS if tasks[each]]
    there = [f"{tasks[each]} {each}" for each in ("free", "busy") if tasks[each]]
    told = [", ".join(live) or "none", f"sessions: {', '.join(there)}" if there else ""]
    return [("tasks", "; ".join(filter(None, told)))] if live or there else []


_LIVE_TASKS = ("queued", "claimed", "needs_attention")


def _status(found: dict[str, Any]) -> None:
    prefect, ledger = found["prefect"], found["ledger"]
    ready = found["ready"]
    output.line("ready" if ready else "not ready", style="bold green" if ready else "bold red")
    live = ", ".join(f"{count} {state}" for state, count in ledger["live"].items() if count)
    due = "\n".join(f"{words.local(each['due'])}  {each['job']}" for each in found["due_soon"])
    where = prefect["ui_url"] or prefect["api_url"]
    silent = f"{where}, does not answer" if where else "none is known"
    output.facts(
        [
            ("prefect", where if prefect["reachable"] else silent),
            ("worker", _workers(found["worker"]["workers"])),
            ("keeper", _keeper(found["keeper"])),
            ("ledger", ledger["place"]),
            ("jobs", f"{ledger['jobs']}, {ledger['enabled']} on"),
            ("runs now", live or "none"),
            ("due soon", due or "nothing"),
            ("outbox", _outbox(found["outbox"])),
            ("inbox", f"{found['outbox']['unread']} unread"),
            *_tasks(found["tasks"]),
        ]
    )
    for problem in found["problems"]:
        output.line(f"! {problem}", style="yellow")
