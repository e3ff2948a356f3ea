"""`daybook up`: runs everything on one machine, in the foreground, until a signal stops it.

::

    lock ─► leftovers ─► ledger ─► Prefect ─► web server ─► preparation ─► worker
         ─► command server

    stop: in the reverse order, the lock last ◄── SIGINT, SIGTERM (as from `down`), SIGHUP,
                                                  another version was installed (`upgrade`)

If a child (server, web server, worker, command server) ends by itself, does not answer or uses too
much memory, `up` restarts the child (`operations.supervision`). `up` records each process in
`up.json` at its start, so that the next `up` or `down` can end the leftovers from a killed `up`.

`up --detach` and the service (`operations.service`) run the same command in the background
(`service_units.background_command`). If an `up` already runs in the background, an `up` in a
terminal shows that `up` instead of starting everything again (`_attach`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, Protocol

from httpx import URL

from daybook import home as homes
from daybook import settings
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import (
    DaybookError,
    LedgerUnreachable,
    PrefectUnreachable,
)
from daybook.jobs import limits, store
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.ledger.views import Run
from daybook.operations import (
    home_lock,
    ledger_move,
    liveness,
    prefect_selection,
    preparation,
    server,
    service,
    service_units,
    supervision,
    upgrade,
    web,
    worker,
)
from daybook.operations.preparation import MessageKind, Preparation, StartedBy, UpFacts
from daybook.operations.service_manager import ServiceManager
from daybook.processes import children, garbage, group, image
from daybook.processes.children import Child
from daybook.runs import history

EXAMPLE_TIMEOUT_SECONDS = 60.0
"""Maximum time that `up --detach` waits for the outcome of the example's first run."""

COMMAND_GRACE_SECONDS = 5.0
"""Time that running commands have to end when `up` stops."""
POLL_INTERVAL_SECONDS = 0.5
BACKGROUND_TIMEOUT_SECONDS = float(service_units.START_TIMEOUT_SECONDS)
"""Maximum time that an `up` in the background may take to start, while its process lives."""
MAX_IDLE_INTERVAL_SECONDS = 3.0
"""Maximum interval between two queries for finished runs, reached while no run ends."""
MAX_POLL_INTERVAL_SECONDS = 30.0
"""Maximum interval between two queries for finished runs, used while the ledger is unreachable."""


class UpReporter(preparation.Reporter, Protocol):
    """Output of `up`."""

    def progress(self, line: str) -> None:
        """Show the progress of a step; each line replaces the previous line."""
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

    Return False after a stop request. Return True if another version was installed; then the caller
    must call `upgrade.restart`.

    With ``link``, create one-time links to Daybook's pages and Prefect's UI. ``forked_from`` is the
    image from which the children are forked; None if there is no image. If another `up` of this
    home already runs in the background, and ``started_by`` is empty, start nothing. Instead, show
    the other `up` until a stop request or until the other `up` ends.

    Raises:

    - `InvalidInput` if another `up` of this home runs in any other case, or a setting is invalid;
    - `LedgerUnreachable`, or `LedgerNewer` if a newer version wrote the ledger;
    - `PrefectUnreachable` if a configured Prefect does not answer, or if a server or worker does
      not start;
    - `DaybookError` if another `up` in the background ends before it is ready.
    """
    limits.load_rules()
    settings.check_features()
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
    """Run ``work``; at the first request, call ``before`` and cancel ``work``.

    Return whether ``work`` was cancelled.
    """
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


async def _attach(home: homes.Home, running: homes.RunningUp, talk: UpReporter, link: bool) -> None:
    """Show the `up` in the background that wrote ``running``, until that `up` ends or restarts.

    Raise `DaybookError` if that `up` ends before it is ready.
    """
    what = "a service" if running["started_by"] == "service" else "`daybook up --detach`"
    talk.say(f"Daybook is already running as {what}: this shows it, and Ctrl-C does not stop it")
    ready = await _until_ready(home, lambda: home.running() is not None, talk)
    if ready is None:
        raise DaybookError("Daybook stopped in the background before it was ready")
    homes.configure_prefect()
    async with open_ledger() as ledger:
        since = ledger.now()
        talk.ready(await preparation.read_facts(ledger, ready, example=None, link=link))
        async with _background(_watch(ledger, talk, since)):
            await _until_ended(home, ready["ready_at"])
    talk.say("Daybook has stopped, or restarts, in the background")


async def _until_ended(home: homes.Home, ready_at: str | None) -> None:
    while True:
        if (home.running() or {}).get("ready_at") != ready_at:
            return
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def detach(talk: UpReporter, within: float = BACKGROUND_TIMEOUT_SECONDS) -> None:
    """Start `daybook up` in the background, and return when everything is running.

    If a service is installed for this home, start the service. Otherwise start a process with the
    log `logs/up.log`. If `up` runs the example job for the first time, show its outcome too.

    Raise `InvalidInput` if this home's `up` is already running. Raise `DaybookError` with the end
    of the log if `up` ends early or takes longer than ``within`` seconds to start.
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
    # The child outlives this process, which does not wait for it. So `subprocess` must not warn
    # about it.
    child.returncode = 0
    await _show_started(running, talk, since)


async def show_service_start(
    installed: service_units.ServiceDefinition,
    talk: UpReporter,
    within: float = BACKGROUND_TIMEOUT_SECONDS,
    *,
    restart: bool = False,
) -> None:
    """Start or restart an installed service, and return when everything is running.

    Raise `DaybookError` with the end of the log if the start fails or takes longer than ``within``
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
    is_expected: Callable[[homes.RunningUp], bool] = lambda record: True,
) -> homes.RunningUp | None:
    """Wait until the `up` in the background is ready; return its record.

    Return None after ``within`` seconds, or as soon as ``is_alive`` returns False. Ignore a record
    for which ``is_expected`` returns False, such as the record of an `up` that is stopping.
    """
    started = time.monotonic()
    while is_alive() and (waited := time.monotonic() - started) < within:
        running = home.running() or {}
        if running.get("ready_at") and is_expected(running):
            return running
        talk.progress(f"Waiting until everything is ready: {waited:.0f} s")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    return None


async def _show_started(running: homes.RunningUp, talk: UpReporter, since: datetime) -> None:
    """Show the `up` in the background, and the outcome of the example job's first run."""
    homes.configure_prefect()
    async with open_ledger() as ledger:
        example = await _first_run(ledger, since)
        name = example[1].name if example else None
        talk.ready(await preparation.read_facts(ledger, running, example=name))
        if example is not None:
            await _show_first_run(ledger, talk, since)


async def _first_run(ledger: Ledger, since: datetime) -> tuple[RunRow, JobRow] | None:
    """Return the example job's first run and its job.

    Return None unless the run is live or ended at ``since`` (UTC) or later.
    """
    async with ledger.read() as session:
        live = await history.live(session)
        rows = [*live, *(row for row, _ in await history.ended_since(session, since))]
        for row in rows:
            if preparation.is_first_run(row) and (
                stored := await store.get(session, str(row.job_id))
            ):
                return row, stored.row
    return None


async def _show_first_run(ledger: Ledger, talk: UpReporter, since: datetime) -> None:
    """Show the outcome of the example job's first run.

    After `EXAMPLE_TIMEOUT_SECONDS`, show only that the run has not ended.
    """
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


async def down() -> bool:
    """Stop this home's `up` and the leftovers of a killed one. Return False if nothing ran.

    Raise `InvalidInput` if a `restore`, a `ledger move` or an unknown process holds the lock.
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
    for each in ledger_move.finding():
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
            # If the image has ended, the children are started as new interpreters.
            with suppress(OSError):
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
        async with preparation.start(
            home, prefect, record, talk, link=link, forked_from=forked_from
        ) as prepared:
            await prepared.wait_for(MessageKind.PREPARED)
            talk.say("Starting the worker")
            child = await worker.start(home, prefect, forked_from)
            await supervision.record_or_end(record, child)
            # The worker limits its own memory, because only the worker knows when no run is active.
            watch = supervision.Watch(probe=liveness.has_pulse)
            supervised = _supervised_child(
                child, partial(worker.start, home, prefect, forked_from), record, talk, watch
            )
            await stack.enter_async_context(supervised)
            await _until_online(prepared, child, prefect.api_url)
            record.set_ready(SYSTEM_CLOCK.now())
            manager.notify("READY=1")
            await stack.enter_async_context(_background(manager.report_alive(ledger)))
            facts = UpFacts.model_validate(await prepared.wait_for(MessageKind.FACTS))
        talk.ready(facts)
        garbage.settle_soon()
        # A service has a second unit for the command server, because the command server is less
        # confined.
        has_unit = record.started_by == "service"
        if settings.load().command_server and sys.platform == "linux" and not has_unit:
            await stack.enter_async_context(_command_server(home, record, talk, forked_from))
        new_version = _set_after(
            upgrade.until_installed(ledger, running_version, talk.say, record.has_worker), upgraded
        )
        await stack.enter_async_context(_background(new_version))
        await _watch(ledger, talk, since)


async def _until_online(prepared: Preparation, child: Child, api_url: str) -> None:
    """Wait until the worker is online; raise `PrefectUnreachable` if the worker ends first."""
    online = asyncio.create_task(prepared.wait_for(MessageKind.ONLINE))
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({online, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not online.done():
            why = f"the worker {group.describe_exit(ended.result())}\n{child.tail()}"
            raise PrefectUnreachable(api_url, why)
        online.result()
    finally:
        online.cancel()
        ended.cancel()


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
    """Keep the command server running while the block runs.

    If it does not start, show the error. Then each command runs in a process of its own.
    """
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
    """Start the process in which the commands of this home run. Its log is `logs/commands.log`."""
    return await children.start(
        "command server",
        [*image.PYTHON_MODULE, "daybook.cli.command_server"],
        environment=server.child_environment(home),
        log=home.logs / "commands.log",
        folder=home.path,
        grace=COMMAND_GRACE_SECONDS,
        forked_from=forked_from,
    )


async def _watch(ledger: Ledger, talk: UpReporter, since: datetime) -> NoReturn:
    """Show each run that has ended since ``since`` (UTC), until cancelled.

    While the ledger is unreachable, show nothing. Afterwards, show the runs that ended in the
    meantime. Show a range of due times again only when its number of due times has doubled.
    Otherwise a range might appear a thousand times, because after a night of sleep it may grow by
    one due time at a time.
    """
    until, last_id = since, ""  # end time and id of the last run that was shown
    # Number of due times of each range at the last time that it was shown, by the range's id.
    ranges = dict[str, int]()
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
            if row.due_to is None or row.count >= 2 * ranges.get(row.id, 0):
                talk.outcome(Run.of(row, job))
                if row.due_to is not None:
                    ranges[row.id] = row.count
            until, last_id = row.finished_at or until, row.id
        pause = POLL_INTERVAL_SECONDS if ended else min(1.2 * pause, MAX_IDLE_INTERVAL_SECONDS)
        await asyncio.sleep(pause)
