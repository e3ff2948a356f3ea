"""`daybook up`: everything on one machine, in the foreground, until it is stopped.

::

    lock ─► leftovers ─► ledger ─► Prefect ─► web server ─► blocks, pool, agent ─► example
         ─► sync ─► worker ─► command server

    stop: in the reverse order, the lock last ◄── SIGINT, SIGTERM (as from `down`), SIGHUP,
                                                  another version was installed (`upgrade`)

A child (server, web server, worker, command server) that ends by itself or does not answer is
restarted (`operations.supervision`). Each process is recorded in `up.json` when it is started, so
that the next `up` or `down` can end the leftovers from a killed one.

`up --detach` and the service (`operations.service`) run the same command in the background
(`service.background_command`). An `up` in a terminal shows the one in the background instead of
starting another one (`_attach`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from httpx import URL
from pydantic import BaseModel, Field

from daybook import home as homes
from daybook import repository, settings
from daybook.api import imports, runs
from daybook.api.sync import SyncReport
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import (
    DaybookError,
    InvalidInput,
    LedgerUnreachable,
    PageUnreachable,
    PrefectUnreachable,
)
from daybook.files import jobs_file
from daybook.files.jobs_file import Source
from daybook.jobs import limits, store
from daybook.jobs.model import Job, new_job
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.ledger.views import Run
from daybook.operations import (
    browser,
    home_lock,
    liveness,
    prefect_selection,
    server,
    service,
    service_units,
    setup,
    supervision,
    upgrade,
    web,
    worker,
)
from daybook.operations.checks import home as home_checks
from daybook.operations.service_manager import ServiceManager
from daybook.prefect import client as connection
from daybook.prefect import reconcile
from daybook.processes import children, garbage, image
from daybook.processes.children import Child
from daybook.runs import claim_requests, claims, history
from daybook.schedules.descriptions import describe
from daybook.tasks.policy import load_policy

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

EXAMPLE_FILE = "deployments/jobs/example.yaml"
EXAMPLE_REQUEST_ID = "first-light"
"""Request id of the example's first run, so that it happens once in a ledger's life."""
EXAMPLE_TIMEOUT_SECONDS = 60.0
"""How long `up --detach` waits for the answer of the example's first run."""

SYNC_SECONDS = 10.0
"""Time after which the start leaves the rest of the first sync to the keeper."""
COMMAND_GRACE_SECONDS = 5.0
"""Time for running commands to end when `up` stops."""
PAGES_TIMEOUT_SECONDS = 10.0
"""How long the start waits for the web server, so that it can print a link to the pages."""
POLL_INTERVAL_SECONDS = 0.5
BACKGROUND_TIMEOUT_SECONDS = float(service_units.START_TIMEOUT_SECONDS)
"""How long an `up` in the background may take to start, as long as it lives."""
StartedBy = Literal["", "detach", "service"]
"""What started an `up` in the background; empty for one in the foreground of a terminal."""
MAX_IDLE_INTERVAL_SECONDS = 3.0
"""Maximum interval between two queries for finished runs, reached while none ends."""
MAX_POLL_INTERVAL_SECONDS = 30.0
"""Maximum interval between two queries for finished runs, used while the ledger is unreachable."""


class UpFacts(BaseModel, frozen=True):
    """What is running after the start: addresses, and the number of ``jobs`` in the ledger.

    ``open_url`` is a one-time link to Daybook's pages, and ``prefect_open_url`` one to Prefect's
    UI: for a server that is not our own, its plain address. Each is None if no link was requested
    or made. ``web_url`` is the address of Daybook's pages and of `/health`; it is None while they
    are not served. ``example`` is the name of the
    example job if this start runs it for the first time. ``model_steps`` are descriptions and
    commands with which the agent `default` asks a model; empty if it is not offline. ``started_by``
    says what started it, if it runs in the background.
    """

    api_url: str
    ui_url: str
    open_url: str | None = Field(repr=False)
    prefect_open_url: str | None = Field(repr=False)
    web_url: str | None
    ledger: str
    jobs: int
    example: str | None
    model_steps: list[tuple[str, str]] = []
    started_by: StartedBy = ""


class UpReporter(Protocol):
    """Output of `up`."""

    def say(self, line: str) -> None:
        """Show a step of the start or of the stop."""
        ...

    def progress(self, line: str) -> None:
        """Show the progress of a step; each line replaces the one before."""
        ...

    def synced(self, report: SyncReport) -> None:
        """Show the result of the first sync."""
        ...

    def ready(self, facts: UpFacts) -> None:
        """Show that everything is running."""
        ...

    def outcome(self, run: Run) -> None:
        """Show a finished run of this ledger."""
        ...


async def up(
    talk: UpReporter,
    *,
    link: bool = True,
    started_by: StartedBy = "",
    forked_from: image.Image | None = None,
) -> bool:
    """Start everything; return when everything has stopped.

    Return False after a stop request, and True if another version was installed meanwhile: the
    caller then calls `upgrade.restart`.

    With ``link``, create links that open Daybook's pages and Prefect's UI, logged in. The children
    are ``forked_from`` the image, if there is one. If this home's `up` runs in the background, and
    this one does not, show that one instead, until a stop request or its end.

    Raises `InvalidInput` if this home's `up` is already running otherwise or a setting is invalid,
    `LedgerUnreachable`, and `PrefectUnreachable` for a configured Prefect that does not answer, or
    for a server or worker that does not start.
    """
    limits.load_rules()
    load_policy()
    home, manager = homes.current_home(), ServiceManager.take_from_environment()
    running = home.running() or {}
    if running.get("started_by") and not started_by:
        with _stop_requested() as stop:
            await _until_requested(_attach(home, running, talk, link), stop)
        return False
    upgraded = asyncio.Event()

    def say_stopping() -> None:
        if stop.is_set():
            manager.notify("STOPPING=1")
        talk.say("Stopping" if stop.is_set() else "Restarting")

    with home_lock.hold(home, started_by=started_by) as record, _stop_requested() as stop:
        work = _run(
            home, record, talk, manager, link=link, upgraded=upgraded, forked_from=forked_from
        )
        is_busy = lambda: not record.ready_at or upgraded.is_set()  # noqa: E731
        async with _background(manager.report_busy(is_busy)):
            was_cancelled = await _until_requested(work, stop, upgraded, before=say_stopping)
        if was_cancelled and stop.is_set():
            talk.say("Stopped")
    return upgraded.is_set() and not stop.is_set()


async def _until_requested(
    work: Coroutine[Any, Any, None],
    *requests: asyncio.Event,
    before: Callable[[], None] = lambda: None,
) -> bool:
    """Run ``work``; at the first request call ``before``, then cancel. Return whether it was."""
    task = asyncio.create_task(work)
    waiting = [asyncio.create_task(each.wait()) for each in requests]
    await asyncio.wait({task, *waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        before()
        task.cancel()
    for each in waiting:
        each.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def _attach(
    home: homes.Home, running: Mapping[str, Any], talk: UpReporter, link: bool
) -> None:
    """Show the `up` in the background that wrote ``running``, until it ends or is restarted."""
    what = "a service" if running["started_by"] == "service" else "`daybook up --detach`"
    talk.say(f"Daybook is already running as {what}: this shows it, and Ctrl-C does not stop it")
    ready = await _until_ready(home, lambda: home.running() is not None, talk)
    if ready is None:
        raise DaybookError("Daybook stopped in the background before it was ready")
    homes.configure_prefect()
    async with open_ledger() as ledger:
        since = ledger.now()
        talk.ready(await _facts(ledger, ready, example=None, link=link))
        async with _background(_watch(ledger, talk, since)):
            await _until_ended(home, ready["ready_at"])
    talk.say("Daybook has stopped, or restarts, in the background")


async def _until_ended(home: homes.Home, ready_at: str) -> None:
    while True:
        if (home.running() or {}).get("ready_at") != ready_at:
            return
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def detach(talk: UpReporter, within: float = BACKGROUND_TIMEOUT_SECONDS) -> None:
    """Start `daybook up` in the background, and return when everything is running.

    If a service is installed for this home, start the service. Else the log is `logs/up.log`. If
    `up` runs the example job for the first time, show its outcome too. Raises `InvalidInput` if
    this home's `up` is already running, and `DaybookError` with the end of the log if `up` ends
    early or takes longer than ``within`` seconds to start.
    """
    home = homes.current_home().make()
    if home.running() is not None:
        raise home_lock.already_running(home)
    if (installed := service.find(home)) is not None:
        talk.say(f"Starting the service {installed.name}")
        await show_service_start(installed, talk, within)
        return
    log = home.logs / "up.log"
    talk.say(f"Starting in the background; log: {log}")
    child, log_start = children.start_detached(service_units.background_command("detach"), log)
    since = SYSTEM_CLOCK.now()
    running = await _until_ready(
        home, lambda: child.poll() is None, talk, within, lambda each: each["pid"] == child.pid
    )
    if running is None:
        if child.poll() is None:
            child.terminate()
            child.wait()
        raise DaybookError(f"`daybook up` did not start:\n{children.read_tail(log, log_start)}")
    child.returncode = 0  # it outlives this process, which does not wait for it
    await _show_started(running, talk, since)


async def show_service_start(
    installed: service_units.Service,
    talk: UpReporter,
    within: float = BACKGROUND_TIMEOUT_SECONDS,
    *,
    restart: bool = False,
) -> None:
    """Start, or restart, an installed service, and return when everything is running.

    Raises `DaybookError` with the end of the log if that fails or takes longer than ``within``
    seconds.
    """
    since, home = SYSTEM_CLOCK.now(), homes.Home(installed.home)
    old_pid = (home.running() or {}).get("pid")
    starting = asyncio.create_task(asyncio.to_thread(service.start, installed, restart=restart))

    def is_alive() -> bool:
        if not starting.done():
            return True
        return starting.exception() is None and service.is_alive(installed)

    try:
        running = await _until_ready(
            home, is_alive, talk, within, lambda each: each["pid"] != old_pid
        )
        if starting.done():
            await starting
    except DaybookError as error:
        raise DaybookError(f"{error}\n{service.log_tail(installed)}".rstrip()) from error
    if running is None:
        raise DaybookError(f"{installed.name} did not start:\n{service.log_tail(installed)}")
    await _show_started(running, talk, since)


async def _until_ready(
    home: homes.Home,
    is_alive: Callable[[], bool],
    talk: UpReporter,
    within: float = BACKGROUND_TIMEOUT_SECONDS,
    is_expected: Callable[[Mapping[str, Any]], bool] = lambda record: True,
) -> dict[str, Any] | None:
    """Wait until the `up` in the background is ready; return its record.

    Return None after ``within`` seconds, or as soon as ``is_alive`` returns False. Ignore a record
    for which ``is_expected`` returns False, such as that of an `up` that is stopping.
    """
    started = time.monotonic()
    while is_alive() and (waited := time.monotonic() - started) < within:
        running = home.running() or {}
        if running.get("ready_at") and is_expected(running):
            return running
        talk.progress(f"Waiting until everything is ready: {waited:.0f} s")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    return None


async def _show_started(running: Mapping[str, Any], talk: UpReporter, since: datetime) -> None:
    """Show what runs in the background, and the outcome of the example job's first run."""
    homes.configure_prefect()
    async with open_ledger() as ledger:
        example = await _first_run(ledger, since)
        name = example[1].name if example else None
        talk.ready(await _facts(ledger, running, example=name))
        if example is not None:
            await _show_first_run(ledger, talk, since)


async def _first_run(ledger: Ledger, since: datetime) -> tuple[RunRow, JobRow] | None:
    """Return the example job's first run with its job, if live or ended at ``since`` or later."""
    async with ledger.read() as session:
        live = await history.live(session)
        rows = [*live, *(row for row, _ in await history.ended_since(session, since))]
        for row in rows:
            if _is_first_run(row) and (stored := await store.get(session, str(row.job_id))):
                return row, stored.row
    return None


async def _show_first_run(ledger: Ledger, talk: UpReporter, since: datetime) -> None:
    """Show the outcome of the example job's first run, unless it takes too long."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < EXAMPLE_TIMEOUT_SECONDS:
        found = await _first_run(ledger, since)
        if found is None or found[0].state not in LIVE:
            break
        talk.progress(f"Waiting for the answer: {waited:.0f} s")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    if found is not None and found[0].state not in LIVE:
        talk.outcome(Run.of(*found))
    else:
        talk.say("The example job is still running; `daybook runs` shows its outcome later")


def _is_first_run(row: RunRow) -> bool:
    return row.occurrence == claim_requests.request_key(str(row.job_id), EXAMPLE_REQUEST_ID)


async def down() -> bool:
    """Stop this home's `up`, and end the leftovers from a killed one.

    Return False if nothing ran. Raises `InvalidInput` if an unknown process holds the lock.
    """
    return await home_lock.stop_running(homes.current_home())


@contextmanager
def _stop_requested() -> Iterator[asyncio.Event]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _supervised_child(
    child: Child,
    again: Callable[[], Awaitable[Child]],
    record: home_lock.UpRecord,
    talk: UpReporter,
    watch: supervision.Watch,
) -> AsyncIterator[None]:
    """Keep a child running while the block runs, and end it at the end of the block."""
    async with _background(supervision.supervise(child, again, record, talk.say, watch=watch)):
        yield


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _run(
    home: homes.Home,
    record: home_lock.UpRecord,
    talk: UpReporter,
    manager: ServiceManager,
    *,
    link: bool,
    upgraded: asyncio.Event,
    forked_from: image.Image | None = None,
) -> None:
    """Run everything until cancelled; set ``upgraded`` if another version should run instead."""
    running_version = upgrade.installed()
    for name in await record.end_leftovers():
        talk.say(f"Ended a {name} left over from an earlier `daybook up`")
    for each in home_checks.interrupted_move():
        talk.say(f"! {each}")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_background(children.keep_logs_short(home.logs, talk.say)))
        ledger = await stack.enter_async_context(open_ledger())
        record.set_ledger(ledger.identity())
        talk.say(f"Ledger: {ledger.place}")
        since = ledger.now()
        prefect = await prefect_selection.find_or_start(
            home, record, talk.say, progress=talk.progress, forked_from=forked_from
        )
        if forked_from is not None:
            with suppress(OSError):  # it has ended, so the children are new interpreters
                await forked_from.adopt(server.child_environment(home))
        if (server_child := prefect.child) is not None:
            port = URL(prefect.api_url).port or server.PORT
            watch = supervision.Watch(
                probe=liveness.http_probe(server.HOST, port, "/api/health"),
                max_memory=settings.load().max_memory,
            )
            supervised = _supervised_child(
                server_child,
                partial(server.start, home, port, forked_from),
                record,
                talk,
                watch,
            )
            await stack.enter_async_context(supervised)
        if port := settings.load().web_port:
            pages = _background(web.supervise(home, port, record, talk.say, forked_from))
            await stack.enter_async_context(pages)
        async with connection.connected() as client:
            example = await _prepare(ledger, client, talk)
            talk.say("Starting the worker")
            last_heartbeat = await worker.last_heartbeat(client, home)
            child = await worker.start(home, prefect, forked_from)
            await supervision.record_or_end(record, child)
            # The worker limits its own memory, because it knows when no run is active.
            watch = supervision.Watch(probe=liveness.has_pulse)
            supervised = _supervised_child(
                child, partial(worker.start, home, prefect, forked_from), record, talk, watch
            )
            await stack.enter_async_context(supervised)
            await worker.wait_until_online(
                client, home, child, before=last_heartbeat, progress=talk.progress
            )
        record.set_ready(SYSTEM_CLOCK.now())
        manager.notify("READY=1")
        await stack.enter_async_context(_background(manager.report_alive(ledger)))
        talk.ready(await _facts(ledger, vars(record), example=example, link=link))
        garbage.settle_soon()
        if example is not None:
            await runs.run(example, request_id=EXAMPLE_REQUEST_ID)
        # Beside a service, the command server is a unit of its own, which is less confined.
        has_unit = record.started_by == "service"
        if settings.load().command_server and sys.platform == "linux" and not has_unit:
            await stack.enter_async_context(_command_server(home, record, talk, forked_from))
        new_version = _set_after(
            upgrade.until_installed(ledger, running_version, talk.say), upgraded
        )
        await stack.enter_async_context(_background(new_version))
        await _watch(ledger, talk, since)


async def _set_after(work: Awaitable[None], event: asyncio.Event) -> None:
    await work
    event.set()


@asynccontextmanager
async def _command_server(
    home: homes.Home,
    record: home_lock.UpRecord,
    talk: UpReporter,
    forked_from: image.Image | None,
) -> AsyncIterator[None]:
    """Keep the command server running; without it, commands run in processes of their own."""
    again = partial(_start_command_server, home, forked_from)
    try:
        child = await again()
        await supervision.record_or_end(record, child)
    except OSError as error:
        talk.say(f"The command server did not start: {error}")
        yield
        return
    watch = supervision.Watch(probe=liveness.socket_probe(home.command_socket))
    async with _supervised_child(child, again, record, talk, watch):
        yield


async def _start_command_server(home: homes.Home, forked_from: image.Image | None) -> Child:
    """Start the server in which the commands of this home run; its log is `logs/commands.log`."""
    return await children.start(
        "command server",
        [*image.PYTHON_MODULE, "daybook.cli.command_server"],
        environment=server.child_environment(home),
        log=home.logs / "commands.log",
        folder=home.path,
        grace=COMMAND_GRACE_SECONDS,
        forked_from=forked_from,
    )


async def _facts(
    ledger: Ledger, running: Mapping[str, Any], *, example: str | None, link: bool = True
) -> UpFacts:
    """Return the facts about the `up` whose `home_lock.UpRecord` has the fields ``running``."""
    async with ledger.read() as session:
        count = len(await store.all_jobs(session))
    open_url = prefect_open_url = None
    model_steps = list[tuple[str, str]]()
    if link:
        await _until_pages_answer(running)
        with suppress(PageUnreachable):  # `daybook open` creates another link
            open_url = (await browser.link()).url
        with suppress(PrefectUnreachable):
            prefect_open_url = (await browser.prefect_link()).url
    with suppress(PrefectUnreachable):
        async with connection.connected() as client:
            model_steps = await setup.model_steps(client)
    return UpFacts(
        api_url=running["api_url"],
        ui_url=running["ui_url"],
        open_url=open_url,
        prefect_open_url=prefect_open_url,
        web_url=running.get("web_url") or None,
        ledger=ledger.place,
        jobs=count,
        example=example,
        model_steps=model_steps,
        started_by=running.get("started_by") or "",
    )


async def _until_pages_answer(running: Mapping[str, Any]) -> None:
    """Wait until the web server answers, at most `PAGES_TIMEOUT_SECONDS`.

    It starts at the same time as the worker, and usually answers first.
    """
    started = time.monotonic()
    while settings.load().web_port and not running.get("web_url"):
        if time.monotonic() - started > PAGES_TIMEOUT_SECONDS:
            return
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def _prepare(ledger: Ledger, client: PrefectClient, talk: UpReporter) -> str | None:
    """Prepare Prefect for the jobs; add the example job to a new ledger.

    Return the example job's name if its first run is not in Prefect yet, else None.
    """
    for line in await setup.prepare(client):
        talk.say(line)
    await _migrate_anna(ledger, talk)
    for job in await _add_example(ledger):
        talk.say(f"Added the example job {job.name}: {describe(job.schedule)}")
    report = await reconcile.reconcile_all(ledger, client, most_seconds=SYNC_SECONDS)
    talk.synced(SyncReport.of(report))
    if report.left:
        talk.say(f"The keeper syncs {report.left} more jobs with Prefect in the background")
    # The first run was requested with the job, so it starts even if that `up` was killed.
    async with ledger.read() as session:
        for row in await history.live(session):
            if _is_first_run(row) and row.flow_run_id is None:
                stored = await store.get(session, str(row.job_id))
                return stored.row.name if stored else None
    return None


async def _migrate_anna(ledger: Ledger, talk: UpReporter) -> None:
    """Import anna's folder once, if the setting names one; a file that is refused stops nothing."""
    try:
        report = await imports.migrate_anna(ledger)
    except InvalidInput as error:
        talk.say(f"DAYBOOK_ANNA_FOLDER was not imported: {error}")
        return
    if report is not None:
        talk.say(f"Imported anna's jobs: {', '.join(job.name for job in report.jobs) or 'none'}")
        for job in report.jobs:
            for note in job.notes:
                talk.say(f"  {job.name}: {note}")


async def _add_example(ledger: Ledger) -> list[Job]:
    """Add the example job with its first run in one transaction; [] if the ledger has had jobs."""
    zone = settings.load().timezone
    async with ledger.write() as session:
        if await store.has_jobs(session):
            return []
        jobs, now = list[Job](), ledger.now()
        path = repository.root() / EXAMPLE_FILE
        for fields in jobs_file.job_fields(Source(path.name, path.read_text())):
            jobs.append(new_job(now=now, default_timezone=zone, **fields))
            stored = await store.add(session, jobs[-1], jobs[-1].name, now)
            key = claim_requests.request_key(stored.id, EXAMPLE_REQUEST_ID)
            session.add(claims.new_requested_row(stored, key, "manual", now, now))
        return jobs


async def _watch(ledger: Ledger, talk: UpReporter, since: datetime) -> NoReturn:
    """Show each run that has ended since ``since`` (UTC), until cancelled.

    While the ledger is unreachable, show nothing; afterwards show the runs that ended in the
    meantime.
    """
    until, last_id = since, ""  # of the last run that was shown
    pause, is_reachable = POLL_INTERVAL_SECONDS, True
    while True:
        try:
            async with ledger.read() as session:
                ended = await history.ended_since(session, until, last_id)
        except LedgerUnreachable as error:
            if is_reachable:
                talk.say(f"Cannot show outcomes now: {error}")
            is_reachable, pause = False, min(2 * pause, MAX_POLL_INTERVAL_SECONDS)
            await asyncio.sleep(pause)
            continue
        if not is_reachable:
            talk.say("Showing outcomes again")
            is_reachable, pause = True, POLL_INTERVAL_SECONDS
        for row, job in ended:
            talk.outcome(Run.of(row, job))
            until, last_id = row.finished_at or until, row.id
        pause = POLL_INTERVAL_SECONDS if ended else min(1.2 * pause, MAX_IDLE_INTERVAL_SECONDS)
        await asyncio.sleep(pause)
