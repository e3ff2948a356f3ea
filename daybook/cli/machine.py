"""The commands for this machine.

They are `daybook up`, `open`, `env`, `down`, `status`, `worker`, `keeper` and `doctor`.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from daybook import home as homes
from daybook.cli import formatting as words
from daybook.cli import output, sync
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput


async def up_(
    *,
    browser: Annotated[
        bool,
        Parameter(negative="--no-browser", help="Open the Prefect UI when everything is ready."),
    ] = True,
    detach: Annotated[
        bool, Parameter(help="Run in the background; return when everything is ready.")
    ] = False,
    link: Annotated[bool, Parameter(negative="--no-link", show=False)] = True,
    as_json: Json = False,
) -> int:
    """Start Daybook on this machine, and print the outcome of each run.

    Start a Prefect server (unless one is configured), its UI and a worker; at the first start, also
    run an example job. The printed link opens the UI once without a password; `daybook open` prints
    another. Stay in the foreground until Ctrl-C, SIGTERM or `daybook down`. With --json, print a
    line `{"ready": …}`, then a line `{"run": …}` for each run that ends.

    Example: daybook up --no-browser
    """
    from daybook.operations.checks import installation

    installation.require_versions()
    homes.forget_stopped_server()
    prepare_prefect()
    from daybook.operations import up
    from daybook.processes import environment

    reporter = JsonReporter() if as_json else TerminalReporter(browser=browser, detached=detach)
    environment.set_search_path()
    await (up.detach(reporter) if detach else up.up(reporter, link=link and not as_json))
    return 0


async def open_(
    *,
    browser: Annotated[
        bool, Parameter(negative="--no-browser", help="Open the link in a browser.")
    ] = True,
    as_json: Json = False,
) -> int:
    """Open Prefect's UI, logged in.

    Print a link that works once, within ten minutes, and open it if there is a display. The
    browser stays logged in for a week.

    Example: daybook open --no-browser
    """
    prepare_prefect()
    from daybook.operations import browser as browsers

    link = await browsers.link()
    if as_json:
        output.print_json(link)
        return 0
    output.line(link["url"])
    if not (browser and open_browser(link["url"])) and link["expires_in_seconds"]:
        minutes = link["expires_in_seconds"] // 60
        output.say(f"Open it in a browser on this machine within {minutes} minutes. It works once.")
    return 0


def env_(
    *,
    fish: Annotated[
        bool, Parameter(help="Print commands for the fish shell.", negative=())
    ] = False,
) -> int:
    """Print the variables that `prefect` needs in this shell.

    They contain the credential of the Prefect server, which gives full access to it.

    Example: eval "$(daybook env)"
    """
    prepare_prefect()
    import shlex

    from daybook.prefect import address as reach

    values = reach.client_environment()
    if fish:
        for name, value in values.items():
            output.line(f"set -gx {name} {shlex.quote(value)}")
    else:
        assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
        output.line(f"export {assignments}")
    return 0


async def down_(*, as_json: Json = False) -> int:
    """Stop this home's `daybook up`, and processes that a killed one left.

    Example: daybook down
    """
    prepare_prefect()
    from daybook.operations.up import down

    stopped = await down()
    if as_json:
        output.print_json({"stopped": stopped})
    else:
        output.say("Stopped." if stopped else "Nothing was running.")
    return 0


async def status_(*, as_json: Json = False) -> int:
    """Show running processes, upcoming due times and problems.

    Exit code 0 if Prefect responds and a worker of this Daybook is online.

    Example: daybook status --json
    """
    prepare_prefect()
    from daybook.operations import status

    report = await status.status()
    if as_json:
        output.print_json(report)
    else:
        _print_status(report)
    return 0 if report["ready"] else 1


def worker_(
    *,
    pool: Annotated[str, Parameter(help="Work pool.", show_default=True)] = "daybook",
    limit: Annotated[
        int | None, Parameter(help="Maximum number of concurrent runs. Default: no limit.")
    ] = None,
    name: Annotated[
        str | None,
        Parameter(help="Name of the worker in Prefect. Default: from this machine and home."),
    ] = None,
    once: Annotated[bool, Parameter(help="Run the jobs that are due now, then exit.")] = False,
) -> int:
    """Run a worker on this machine, with or without `daybook up`.

    It runs the due jobs of its pool until Ctrl-C or SIGTERM, and then gives current runs 10 seconds
    to end. The same as `prefect worker start --type daybook`.

    Example: daybook worker --limit 2
    """
    if limit is not None and limit < 1:
        raise InvalidInput("limit", f"{limit} is too small", "use 1 or more")
    from daybook.operations.checks import installation

    installation.require_versions()
    prepare_prefect()
    from daybook.operations import worker

    command = worker.command(homes.current_home(), pool=pool, limit=limit, name=name, once=once)
    environment = dict(os.environ)
    if homes.is_own_server(os.environ.get("PREFECT_API_URL", "")):
        environment = homes.without_credentials(environment)
    sys.stdout.flush()
    os.execve(command[0], command, environment)


async def keeper_() -> int:
    """Run a keeper: reconcile ledger and Prefect, and audit due times.

    Each worker also runs a keeper. For each ledger, one keeper leads and the others are on standby.
    Use this command on a machine that runs no jobs. It runs until Ctrl-C or SIGTERM.

    Example: daybook keeper
    """
    from daybook.operations.checks import installation

    installation.require_versions()
    prepare_prefect()
    from daybook.operations import keeper
    from daybook.processes import environment

    environment.set_search_path()
    await keeper.run_keeper(output.say)
    return 0


async def doctor_(*, as_json: Json = False) -> int:
    """Check this installation, and print a fix for each problem.

    Print a line for each check of versions, home, ledger, Prefect, pool, worker and jobs. Exit code
    0 if no check finds a problem; warnings do not count.

    Example: daybook doctor
    """
    from daybook.operations import doctor

    findings = await doctor.doctor()
    if as_json:
        output.print_json(findings)
    else:
        _print_findings(findings)
    return 0 if all(each["ok"] for each in findings) else 1


def _print_sync_report(report: dict[str, Any]) -> None:
    changes = ("created", "updated", "pulled", "removed")
    if any(report[each] for each in changes):
        counts = ", ".join(f"{len(report[each])} {_CHANGE_WORDS[each]}" for each in changes)
        output.say(f"Synced with Prefect: {counts}")
    for line in sync.notable_changes(report):
        output.say(f"! {line}")


_CHANGE_WORDS = {
    "created": "created",
    "updated": "updated",
    "pulled": "imported",
    "removed": "removed",
}


class TerminalReporter:
    """Terminal output of `daybook up`; implements `daybook.operations.up.UpReporter`."""

    def __init__(self, *, browser: bool, detached: bool = False) -> None:
        self._browser = browser
        self._stop_hint = "`daybook down` stops it." if detached else "Ctrl-C stops everything."
        self._program = program_name()
        self._example: str | None = None

    def say(self, line: str) -> None:
        output.say(line)

    def progress(self, line: str) -> None:
        output.progress(line)

    def synced(self, report: dict[str, Any]) -> None:
        _print_sync_report(report)

    def ready(self, facts: dict[str, Any]) -> None:
        output.line("Ready.", style="bold green")
        jobs = f"{facts['jobs']} (`daybook list` shows them)"
        health = f"{facts['web_url']}/health" if facts["web_url"] else ""
        address = ui_address(facts)
        pairs = [
            ("Prefect UI", address),
            ("jobs", jobs),
            ("ledger", facts["ledger"]),
            ("health", health),
            ("for prefect", 'eval "$(daybook env)"'),
        ]
        output.fields([(name, value) for name, value in pairs if value])
        self._example = facts["example"]
        if self._example:
            output.say(f"Running the example job {self._example} now; {self._stop_hint}")
        else:
            if facts["jobs"] <= 1:  # the user has not added a job yet
                self._print_next_steps()
            output.say(self._stop_hint)
        if self._browser:
            open_browser(address)

    def outcome(self, run: dict[str, Any]) -> None:
        from daybook.cli.runs import print_run

        print_run(run)
        if self._example and run["job"] == self._example:
            self._example = None
            self._print_next_steps()

    def _print_next_steps(self) -> None:
        output.line("Next:", style="bold")
        output.fields([(what, f"{self._program} {command}") for what, command in NEXT_STEPS])


class JsonReporter:
    """Output of `daybook up --json`: one line of JSON per event."""

    def say(self, line: str) -> None:
        output.say(line)

    def progress(self, line: str) -> None:
        output.progress(line)

    def synced(self, report: dict[str, Any]) -> None:
        _print_sync_report(report)

    def ready(self, facts: dict[str, Any]) -> None:
        output.print_json_line({"ready": facts})

    def outcome(self, run: dict[str, Any]) -> None:
        output.print_json_line({"run": run})


NEXT_STEPS = (
    (
        "ask a model",
        "agents add default --replace --model anthropic:claude-haiku-5-5 --key-env "
        "ANTHROPIC_API_KEY",
    ),
    ("add a job", 'add "Summarise today\'s news" --cron "0 9 * * 1-5" --name morning-brief'),
    ("see the runs", "runs"),
)
"""The next steps after the first start, each with its command."""


def ui_address(facts: dict[str, Any]) -> str:
    """Return the address at which a user opens the UI; empty if there is none."""
    return str(facts["open_url"] or facts["ui_url"] or "")


def program_name() -> str:
    """Return the command that starts Daybook here: `daybook`, or `.venv/bin/daybook`."""
    import shutil

    if shutil.which("daybook"):
        return "daybook"
    beside = os.path.join(os.path.dirname(sys.executable), "daybook")
    relative = os.path.relpath(beside)
    return beside if relative.startswith("..") else relative


def open_browser(url: str) -> bool:
    """Open ``url`` if the user of this terminal would see it; return whether it was opened.

    Other users can read the arguments of a browser. On Linux the server refuses them the link
    (`daybook.operations.peers`); elsewhere the browser opens a file of the home that redirects
    to it.
    """
    if not url or not sys.stdout.isatty() or not display_likely():
        return False
    import webbrowser

    if sys.platform != "linux" and "?" in url:
        url = homes.current_home().write_redirect_page(url).as_uri()
    return webbrowser.open(url)


def display_likely() -> bool:
    """Return whether the user of this terminal would see a browser that opens on this machine."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _print_findings(findings: list[dict[str, Any]]) -> None:
    width = max(len(each["check"]) for each in findings)
    for each in findings:
        details = "; fix: ".join(filter(None, (each["problem"], each["fix"])))
        line = f"{each['severity']:<7}  {each['check']:<{width}}  {details}".rstrip()
        output.line(line, style=_SEVERITY_STYLES[each["severity"]])


_SEVERITY_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}


def _worker_names(online: list[dict[str, Any]]) -> str:
    ours = ", ".join(each["name"] for each in online if each["ours"]) or "none online"
    others = ", ".join(each["name"] for each in online if not each["ours"])
    return ours + (f"\n(another Daybook's: {others})" if others else "")


def _keeper_text(keeper: dict[str, Any]) -> str:
    if not keeper["running"]:
        return "no leader"
    observed_at = keeper["observed_at"]
    return str(keeper["holder"]) + (
        f", has observed Prefect at {words.local_time(observed_at)}" if observed_at else ""
    )


def _outbox(outbox: dict[str, Any]) -> str:
    """Return `3 pending, the oldest since …; 1 failed`."""
    pending, failed = outbox["pending"], outbox["failed"]
    since = words.local_time(outbox["oldest_pending_at"])
    parts = [f"{pending:,} pending, the oldest since {since}" if pending else ""]
    parts.append(f"{failed:,} failed" if failed else "")
    return "; ".join(filter(None, parts)) or "nothing pending"


def _task_fields(tasks: dict[str, Any]) -> list[tuple[str, str]]:
    """Return `2 queued, 1 claimed; sessions: 1 free, 1 busy`, or no field if there are none."""
    live = [f"{tasks[each]} {each.replace('_', ' ')}" for each in _LIVE_TASKS if tasks[each]]
    sessions = [f"{tasks[each]} {each}" for each in ("free", "busy") if tasks[each]]
    parts = [", ".join(live) or "none", f"sessions: {', '.join(sessions)}" if sessions else ""]
    return [("tasks", "; ".join(filter(None, parts)))] if live or sessions else []


_LIVE_TASKS = ("queued", "claimed", "needs_attention")


def _print_status(report: dict[str, Any]) -> None:
    prefect, ledger = report["prefect"], report["ledger"]
    ready = report["ready"]
    output.line("ready" if ready else "not ready", style="bold green" if ready else "bold red")
    live = ", ".join(f"{count} {state}" for state, count in ledger["live"].items() if count)
    due = "\n".join(
        f"{words.local_time(each['due'])}  {each['job']}" for each in report["due_soon"]
    )
    where = prefect["ui_url"] or prefect["api_url"]
    unreachable = f"{where}, does not answer" if where else "no server is known"
    output.fields(
        [
            ("prefect", where if prefect["reachable"] else unreachable),
            ("worker", _worker_names(report["worker"]["workers"])),
            ("keeper", _keeper_text(report["keeper"])),
            ("ledger", ledger["place"]),
            ("jobs", f"{ledger['jobs']}, {ledger['enabled']} enabled"),
            ("runs now", live or "none"),
            ("due soon", due or "nothing"),
            ("outbox", _outbox(report["outbox"])),
            ("inbox", f"{report['outbox']['unread']} unread"),
            *_task_fields(report["tasks"]),
        ]
    )
    for problem in report["problems"]:
        output.line(f"! {problem}", style="yellow")
