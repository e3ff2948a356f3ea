"""The `daybook up`, `open`, `env`, `down`, `status`, `worker`, `keeper` and `doctor` commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from daybook import api, diagnosis, operations, settings
from daybook import home as homes
from daybook.cli import formatting, output, sync
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute, Json, Watch, check_limit, prepare_prefect
from daybook.cli.runs import print_run
from daybook.errors import InvalidInput
from daybook.prefect import address as prefect_address
from daybook.processes import environment
from daybook.processes import output as log_output

if TYPE_CHECKING:
    from daybook.api.overdue import KeeperStatus
    from daybook.api.sync import SyncReport
    from daybook.delivery.views import OutboxHealth
    from daybook.diagnosis.status import StatusReport
    from daybook.ledger.views import Run
    from daybook.operations.preparation import StartedBy, UpFacts
    from daybook.operations.up import UpReporter
    from daybook.prefect.work_pool import OnlineWorker
    from daybook.processes import image


def up_(
    *,
    browser: Annotated[
        bool,
        Parameter(negative="--no-browser", help="Open Daybook's pages when everything is ready."),
    ] = True,
    detach: Annotated[
        bool, Parameter(help="Run in the background; return when everything is ready.")
    ] = False,
    started_by: Annotated[Literal["", "detach", "service"], Parameter(show=False)] = "",
    as_json: Json = False,
) -> Coroutine[Any, Any, int]:
    """Start Daybook on this machine, and print the outcome of each run.

    Starts a Prefect server (unless one is configured), Daybook's pages and a worker; at the first
    start, also runs an example job. The printed links open the pages and Prefect's UI once without
    a password; `daybook open` prints another. Stays in the foreground until Ctrl-C, SIGTERM or
    `daybook down`. If Daybook runs in the background, shows that instead, and Ctrl-C does not stop
    it. With --json, prints a line `{"ready": …}`, then a line `{"run": …}` for each run that ends.

    Example: daybook up --no-browser
    """
    inherited = dict(os.environ)
    operations.versions.require_versions()
    if started_by == "service":
        os.environ.update(operations.service.read_environment(homes.current_home()))
    homes.forget_stopped_server()
    prepare_prefect()
    environment.set_search_path()
    reporter = JsonReporter() if as_json else TerminalReporter(browser=browser and not started_by)
    # Do this before Prefect's import, whose log handlers keep the stream.
    log_output.survive_full_disk()
    if detach:
        return _detach(reporter)
    # Do this before there is an event loop, because a fork would share its descriptors.
    is_shown = bool(homes.current_home().running()) and not started_by
    forked_from = None if is_shown else operations.preload.fork_image()
    with_link = not (as_json or started_by)
    return _up(reporter, inherited, link=with_link, started_by=started_by, forked_from=forked_from)


async def _detach(reporter: UpReporter) -> int:
    await operations.up.detach(reporter)
    return 0


async def _up(
    reporter: UpReporter,
    inherited: dict[str, str],
    *,
    link: bool,
    started_by: StartedBy,
    forked_from: image.Image | None,
) -> int:
    try:
        is_upgraded = await operations.up.up(
            reporter, link=link, started_by=started_by, forked_from=forked_from
        )
    finally:
        if forked_from is not None:
            forked_from.close()
    if is_upgraded:
        operations.upgrade.restart(inherited)
    return 0


async def open_(
    *,
    browser: Annotated[
        bool, Parameter(negative="--no-browser", help="Open the link in a browser.")
    ] = True,
    prefect: Annotated[bool, Parameter(help="Open Prefect's UI instead.", negative=())] = False,
    phone: Annotated[
        bool,
        Parameter(help="Print the link for the public URL, also as a QR code.", negative=()),
    ] = False,
    share: Annotated[
        str | None,
        Parameter(help="Print a lasting link that only shows the pages, with this name."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Open Daybook's pages, or Prefect's UI, logged in.

    Prints a link that works once, within ten minutes, and opens it if there is a display. The
    browser stays logged in until it has not been used for 30 days. If no browser opens, the link is
    for DAYBOOK_PUBLIC_URL, if that is set.

    With --share, prints a link for others, such as a wall display. It permits no change, and works
    until `daybook tokens remove NAME`.

    Example: daybook open --no-browser
    """
    if share is not None:
        if prefect:
            raise InvalidInput("share", "is not possible for Prefect's UI", "omit --prefect")
        return await _share(share, as_json)
    if phone and (prefect or not settings.load().public_url):
        problem = "needs DAYBOOK_PUBLIC_URL, an address that the phone reaches"
        problem = "is not possible for Prefect's UI" if prefect else problem
        raise InvalidInput("phone", problem, "see docs/guides/phone.md")
    prepare_prefect()

    is_public = not prefect and bool(settings.load().public_url)
    is_public &= phone or as_json or not browser or not sees_browser()
    link = await (
        operations.browser.prefect_link()
        if prefect
        else operations.browser.link(is_public=is_public)
    )
    if as_json:
        output.print_json(link)
        return 0
    if phone:
        output.line(_qr_code(link.url))
    output.line(link.url)
    if not (browser and not phone and open_browser(link.url)) and link.expires_in_seconds:
        minutes = link.expires_in_seconds // 60
        where = "" if is_public else " on this machine"
        output.say(f"Open it in a browser{where} within {minutes} minutes. It works once.")
    return 0


def _qr_code(text: str) -> str:
    """Return the QR code of a text as lines, light on the dark background of most terminals.

    Each character is two modules, one above the other. Cameras also read the inverted code.
    """
    import segno

    rows = [bytes(each) for each in segno.make(text, error="l", micro=False).matrix_iter(border=2)]
    rows += [bytes([0] * len(rows[0]))] * (len(rows) % 2)
    blocks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    return "\n".join(
        "".join(blocks[bool(above), bool(below)] for above, below in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )


async def _share(name: str, as_json: bool) -> int:
    link = await api.tokens.share(name)
    if as_json:
        output.print_json(link)
        return 0
    output.line(link.url)
    output.say(
        f"Created the link {link.name}. It will not be shown again. It only shows the pages."
    )
    output.say(f"`daybook tokens remove {link.name}` revokes it.")
    return 0


def env_(
    *,
    fish: Annotated[
        bool, Parameter(help="Print commands for the fish shell.", negative=())
    ] = False,
) -> int:
    """Print shell commands that set the variables that `prefect` needs.

    The variables include the credential of the Prefect server, which gives full access to it.

    Example: eval "$(daybook env)"
    """
    prepare_prefect()
    import shlex

    values = prefect_address.client_environment()
    if fish:
        for name, value in values.items():
            output.line(f"set -gx {name} {shlex.quote(value)}")
    else:
        assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
        output.line(f"export {assignments}")
    return 0


@command(uses_prefect=True)
async def down_() -> Answer:
    """Stop this home's `daybook up`, and processes left over from a killed one.

    Example: daybook down
    """
    stopped = await operations.up.down()
    yield {"stopped": stopped}
    output.say("Stopped." if stopped else "Nothing was running.")


async def status_(
    *, absolute: Absolute = False, watch: Watch = False, as_json: Json = False
) -> int:
    """Show running processes, upcoming due times and problems.

    Exits with 0 if Prefect responds, a worker of this Daybook is online, and the work pool does not
    contain only another Daybook's jobs while this one has jobs too.

    Example: daybook status --json
    """
    prepare_prefect()

    report = await output.show(
        diagnosis.status.status,
        lambda found: _print_status(found, absolute),
        as_json=as_json,
        watch=watch,
    )
    return 0 if report.ready else 1


def worker_(
    *,
    pool: Annotated[str, Parameter(help="Name of the work pool.", show_default=True)] = "daybook",
    queue: Annotated[
        list[str] | None,
        Parameter(
            help="Work queue to serve, such as light, the queue of that class. Repeatable. "
            "[default: all]",
        ),
    ] = None,
    limit: Annotated[
        int | None, Parameter(help="Maximum number of concurrent runs. [default: no limit]")
    ] = None,
    name: Annotated[
        str | None,
        Parameter(help="Name of the worker in Prefect. [default: from machine and home]"),
    ] = None,
    once: Annotated[bool, Parameter(help="Run the jobs that are due now, then exit.")] = False,
) -> int:
    """Run a worker on this machine, with or without `daybook up`.

    Runs the due jobs of its pool until Ctrl-C or SIGTERM, and then gives active runs 10 seconds to
    end. Equivalent to `prefect worker start --type daybook`.

    Example: daybook worker --queue light --queue medium
    """
    if limit is not None:
        check_limit(limit)

    operations.versions.require_versions()
    prepare_prefect()

    command = operations.worker.command(
        homes.current_home(), pool=pool, queues=queue or (), limit=limit, name=name, once=once
    )
    environment = dict(os.environ)
    if homes.is_own_server(os.environ.get("PREFECT_API_URL", "")):
        environment = homes.without_credentials(environment)
    sys.stdout.flush()
    os.execve(command[0], command, environment)


async def keeper_() -> int:
    """Run a keeper: reconcile the ledger with Prefect, and audit due times.

    Each worker also runs a keeper. For each ledger, one keeper leads and the others are on standby.
    Use this command on a machine that runs no jobs. Runs until Ctrl-C or SIGTERM.

    Example: daybook keeper
    """
    operations.versions.require_versions()
    prepare_prefect()

    environment.set_search_path()
    await operations.keeper.run_keeper(output.say, diagnosis.status.overview)
    return 0


@command()
async def doctor_(
    *,
    pool: Annotated[
        str,
        Parameter(help="Check only what jobs in this work pool of Prefect need."),
    ] = "",
    verbose: Annotated[
        bool,
        Parameter(alias="-v", help="Also print the checks that passed."),
    ] = False,
) -> Answer:
    """Check this installation, and print a fix for each problem.

    Checks the versions, home, ledger, Prefect, pool, worker and jobs. Exits with 0 if no check
    finds a problem; warnings do not count.

    Example: daybook doctor
    Example: daybook doctor --pool containers
    """
    findings = await diagnosis.doctor.doctor(pool)
    yield findings, 0 if all(each.ok for each in findings) else 1
    verbose = verbose or bool(pool)
    shown = [each for each in findings if verbose or each.severity != "ok"]
    width = max((len(each.check) for each in shown), default=0)
    for each in shown:
        details = "; fix: ".join(filter(None, (each.message, each.fix)))
        line = f"{each.severity:<7}  {each.check:<{width}}  {details}".rstrip()
        output.line(line, style=_SEVERITY_STYLES[each.severity])
    if fine := len(findings) - len(shown):
        hint = "`daybook doctor -v` lists them"
        output.say(f"{formatting.counted(fine, 'check')} found no problem; {hint}.")


_SEVERITY_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}


def _print_sync_report(report: SyncReport) -> None:
    changes = ("created", "updated", "pulled", "removed")
    if any(getattr(report, each) for each in changes):
        counts = ", ".join(
            f"{len(getattr(report, each))} {_CHANGE_WORDS[each]}" for each in changes
        )
        output.say(f"Synced with Prefect: {counts}")
    for line in sync.notable_changes(report):
        output.say(f"! {line}")


_CHANGE_WORDS = {
    "created": "created",
    "updated": "updated",
    "pulled": "imported",
    "removed": "removed",
}


class _Reporter:
    """Output to stderr that both reporters of `daybook up` share."""

    def say(self, line: str) -> None:
        output.say(line)

    def progress(self, line: str) -> None:
        output.progress(line)

    def synced(self, report: SyncReport) -> None:
        _print_sync_report(report)


class TerminalReporter(_Reporter):
    """Terminal output of `daybook up`. It implements `daybook.operations.up.UpReporter`."""

    def __init__(self, *, browser: bool) -> None:
        self._browser = browser
        self._program = program_name()
        self._example: str | None = None
        self._model_steps: list[tuple[str, str]] = []

    def ready(self, facts: UpFacts) -> None:
        output.line("Ready.", style="bold green")
        jobs = f"{facts.jobs} (`daybook list` shows them)"
        health = f"{facts.web_url}/health" if facts.web_url else ""
        pairs = [
            ("open", facts.open_url or ""),
            ("Prefect UI", facts.prefect_open_url or facts.ui_url),
            ("jobs", jobs),
            ("ledger", facts.ledger),
            ("health", health),
            ("for prefect", 'eval "$(daybook env)"'),
        ]
        output.fields([(name, value) for name, value in pairs if value])
        self._example, self._model_steps = facts.example, facts.model_steps
        is_own = not facts.started_by
        stop_hint = "Ctrl-C stops everything." if is_own else "`daybook down` stops it."
        if self._example:
            output.say(f"Running the example job {self._example} now; {stop_hint}")
        else:
            if facts.jobs <= 1:  # the user has not added a job yet
                self._print_next_steps()
            output.say(stop_hint)
        if self._browser:
            open_browser(ui_address(facts))

    def outcome(self, run: Run) -> None:
        print_run(run)
        if self._example and run.job == self._example:
            self._example = None
            self._print_next_steps()

    def _print_next_steps(self) -> None:
        output.line("Next:", style="bold")
        steps = [*self._model_steps, *NEXT_STEPS]
        output.fields([(what, self._as_typed(command)) for what, command in steps])

    def _as_typed(self, command: str) -> str:
        """Return a command of Daybook as it works in this shell.

        Return other commands unchanged.
        """
        arguments = command.removeprefix("daybook ")
        return command if arguments == command else f"{self._program} {arguments}"


class JsonReporter(_Reporter):
    """Output of `daybook up --json`: JSON lines `ready` and `run`. Other text goes to stderr."""

    def ready(self, facts: UpFacts) -> None:
        output.print_json_line({"ready": facts})

    def outcome(self, run: Run) -> None:
        output.print_json_line({"run": run})


NEXT_STEPS = (
    ("add a job", 'daybook add "every weekday at 9:00" "Name one thing to learn" --channel inbox'),
    ("see the runs", "daybook runs"),
    ("complete names with Tab", "daybook completion --install"),
)
"""The next steps after the first start, each with its command. The steps for a model come first."""


def ui_address(facts: UpFacts) -> str:
    """Return the address for the user to open: Daybook's pages, or Prefect's UI, or ""."""
    return facts.open_url or facts.prefect_open_url or facts.ui_url


def program_name() -> str:
    """Return the command that starts Daybook in this shell: `daybook`, or `.venv/bin/daybook`."""
    import shutil

    if shutil.which("daybook"):
        return "daybook"
    beside = os.path.join(os.path.dirname(sys.executable), "daybook")
    relative = os.path.relpath(beside)
    return beside if relative.startswith("..") else relative


def open_browser(url: str) -> bool:
    """Open ``url`` if the user of this terminal would see it. Return whether it was opened.

    Other users can read the arguments of a browser. On Linux, the server does not accept the link
    from them (`daybook.operations.peers`); elsewhere the browser opens a file in the home that
    redirects to a link with a query.
    """
    if not url or not sees_browser():
        return False
    import webbrowser

    if sys.platform != "linux" and "?" in url:
        url = homes.current_home().write_redirect_page(url).as_uri()
    return webbrowser.open(url)


def sees_browser() -> bool:
    """Return whether this command has a terminal whose user would see a browser."""
    return sys.stdout.isatty() and display_likely()


def display_likely() -> bool:
    """Return whether the user of this terminal would see a browser that opens on this machine."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _worker_names(online: list[OnlineWorker]) -> str:
    ours = ", ".join(each.name for each in online if each.ours) or "none online"
    others = ", ".join(each.name for each in online if not each.ours)
    return ours + (f"\n(of another Daybook: {others})" if others else "")


def _keeper_text(keeper: KeeperStatus, when: formatting.TimeFormat) -> str:
    if not keeper.running:
        return "no leader"
    at = keeper.observed_at
    return keeper.holder + (f", last observed Prefect {when(at)}" if at else "")


def _outbox(outbox: OutboxHealth, when: formatting.TimeFormat) -> str:
    """Return the state of the outbox, such as `3 pending, the oldest from 5 min ago; 1 failed`."""
    pending, failed = outbox.pending, outbox.failed
    parts = [f"{pending:,} pending" if pending else ""]
    if outbox.oldest_pending_at is not None:
        parts[0] += f", the oldest from {when(outbox.oldest_pending_at)}"
    parts.append(f"{failed:,} failed" if failed else "")
    return "; ".join(filter(None, parts)) or "nothing pending"


def _counts(*counts: tuple[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts if count)


def _print_status(report: StatusReport, absolute: bool) -> None:
    when = formatting.time_format(absolute)
    prefect, ledger = report.prefect, report.ledger
    from daybook.diagnosis import feature_status

    ready = report.ready
    output.line("ready" if ready else "not ready", style="bold green" if ready else "bold red")
    where = prefect.ui_url or prefect.api_url
    unreachable = f"{where} does not answer" if where else "no server is known"
    output.fields(
        [
            ("prefect", (where or "") if prefect.reachable else unreachable),
            ("worker", _worker_names(report.worker.workers)),
            ("keeper", _keeper_text(report.keeper, when)),
            ("ledger", ledger.place),
            ("jobs", f"{ledger.jobs}, {ledger.enabled} enabled"),
            ("runs now", _counts(*ledger.live.items()) or "none"),
            ("due soon", formatting.due_jobs(report.due_soon, when) or "nothing"),
            *(("maintenance", formatting.maintenance(each)) for each in report.maintenance[:1]),
            ("outbox", _outbox(report.outbox, when)),
            ("inbox", f"{report.outbox.unread} unread"),
            *feature_status.lines_of(report.__pydantic_extra__ or {}),
            *formatting.time_zone_field(absolute),
        ]
    )
    for problem in report.problems:
        output.line(f"! {problem}", style="yellow")
