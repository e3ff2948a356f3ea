"""`daybook up`: everything on one machine, in the foreground, until it is stopped.

::

    lock ─► leftovers ─► ledger ─► Prefect ─► blocks, pool, agent ─► example ─► sync ─► worker

    stop: worker first, then the server, then the lock ◄── SIGINT, SIGTERM, `down`

A server or worker that ends by itself is restarted. Each process is recorded in `up.json` when it
is started, so that the next `up` or `down` can end the leftovers of a killed one.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from httpx import URL

from daybook import home as homes
from daybook import repository, settings
from daybook.api import runs, sync, views
from daybook.api.jobs import add
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError, InvalidInput, LedgerUnreachable, PrefectUnreachable
from daybook.jobs import limits, store
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.operations import (
    browser,
    home_lock,
    prefect_selection,
    server,
    setup,
    supervision,
    web,
    worker,
)
from daybook.processes import children
from daybook.processes.children import Child
from daybook.runs import claim_requests, claims, history
from daybook.tasks import model

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

EXAMPLE_FILE = "deployments/jobs/example.yaml"
EXAMPLE_REQUEST_ID = "first-light"
"""Request id of the example's first run, so that it happens once in a ledger's life."""
EXAMPLE_TIMEOUT_SECONDS = 60.0
"""Timeout of `up --detach` for the answer of the example's first run."""

POLL_INTERVAL_SECONDS = 0.5
MAX_POLL_INTERVAL_SECONDS = 30.0
"""Intervals between two queries for finished runs; the longest one if the ledger is unreachable."""


class UpReporter(Protocol):
    """Output of `up`."""

    def say(self, line: str) -> None:
        """Show a step of the start or of the stop."""
        ...

    def progress(self, line: str) -> None:
        """Show the progress of a step; called often, each call replaces the line of the one
        before.
        """
        ...

    def synced(self, report: dict[str, Any]) -> None:
        """Show the result of the first sync (`api.sync.report_view`)."""
        ...

    def ready(self, facts: dict[str, Any]) -> None:
        """Show that everything runs: `{"api_url", "ui_url", "open_url", "web_url", "ledger",
        "jobs", "example"}`.

        ``open_url`` opens the UI once without a password; it is None if no link was requested.
        ``web_url`` is None while the health page is not listening.
        """
        ...

    def outcome(self, run: dict[str, Any]) -> None:
        """Show a finished run of this ledger (`views.run`)."""
        ...


async def up(talk: UpReporter, *, link: bool = True) -> None:
    """Start everything, and return after a stop request, when everything has stopped.

    ``link``: create a link that opens Prefect's UI logged in.

    Raises `InvalidInput` if this home's `up` already runs or a setting is invalid,
    `PrefectUnreachable` for a configured Prefect that does not answer, or a server or worker that
    does not start.
    """
    limits.load_rules()
    model.load_policy()
    home = homes.current_home()
    with home_lock.hold(home) as record, _stop_requested() as stop:
        work = asyncio.create_task(_run(home, record, talk, link))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            talk.say("Stopping")
            work.cancel()
        stopping.cancel()
        try:
            await work
        except asyncio.CancelledError:
            talk.say("Stopped")


async def detach(talk: UpReporter, within: float = 180.0) -> None:
    """Start `daybook up` in the background, and return when everything runs; its log is
    `logs/up.log`.

    If it runs the example job for the first time, its outcome is shown, too. Raises `InvalidInput`
    if this home's `up` already runs, `DaybookError` with the end of its log if it ends before that
    or takes longer than ``within`` seconds.
    """
    home = homes.current_home().make()
    if home.running() is not None:
        raise InvalidInput(
            "home", f"`daybook up` already runs for {home.path}", "stop it with `daybook down`"
        )
    log = home.logs / "up.log"
    talk.say(f"Starting in the background; log: {log}")
    # -P: do not import another `daybook` from the current folder, such as another checkout.
    child, log_start = children.start_detached(
        [sys.executable, "-P", "-m", "daybook", "up", "--no-browser", "--no-link"], log
    )
    since, started = SYSTEM_CLOCK.now(), time.monotonic()
    while child.poll() is None and (waited := time.monotonic() - started) < within:
        facts = home.running() or {}
        if facts.get("pid") == child.pid and facts.get("ready_at"):
            child.returncode = 0  # it keeps running, and this process does not wait for it
            async with open_ledger() as ledger:
                async with ledger.read() as session:
                    count = len(await store.all_jobs(session))
                example = await _first_run(ledger, since)
                name = example[1].name if example else None
                talk.ready(await _facts(facts, ledger, count, name, link=True))
                if example is not None:
                    await _show_first_run(ledger, talk, since)
            return
        talk.progress(f"Waiting until everything is ready: {waited:.0f} s")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    if child.poll() is None:
        child.terminate()
        child.wait()
    raise DaybookError(f"`daybook up` did not start:\n{children.read_tail(log, log_start)}")


async def _first_run(ledger: Ledger, since: datetime) -> tuple[RunRow, JobRow] | None:
    """Return the example job's first run, if it is live or ended after ``since``."""
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
        talk.outcome(views.run(*found))
    else:
        talk.say("The example job still runs; `daybook runs` shows its outcome later")


def _is_first_run(row: RunRow) -> bool:
    return row.occurrence == claim_requests.request_key(str(row.job_id), EXAMPLE_REQUEST_ID)


async def down() -> bool:
    """Stop this home's `up` and the leftovers of a killed one; return False if nothing ran."""
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
) -> AsyncIterator[None]:
    """Keep a child running while the block runs; it ends with the block, before enclosing
    resources.
    """
    async with _background(supervision.supervise(child, again, record, talk.say)):
        yield


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, NoReturn]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _run(home: homes.Home, record: home_lock.UpRecord, talk: UpReporter, link: bool) -> None:
    from daybook.prefect import client as connection

    for name in await record.end_leftovers():
        talk.say(f"Ended a {name} that an earlier `daybook up` left")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_background(children.keep_logs_short(home.logs, talk.say)))
        ledger = await stack.enter_async_context(open_ledger())
        record.set_ledger(ledger.identity())
        talk.say(f"Ledger: {ledger.place}")
        since = ledger.now()
        prefect = await prefect_selection.find_or_start(
            home, record, talk.say, progress=talk.progress
        )
        if (server_child := prefect.child) is not None:
            port = URL(prefect.api_url).port or server.PORT
            supervised = _supervised_child(
                server_child, partial(server.start, home, port), record, talk
            )
            await stack.enter_async_context(supervised)
        if port := settings.load().web_port:
            health_page = _background(web.supervise(home, port, record, talk.say))
            await stack.enter_async_context(health_page)
        async with connection.connected() as client:
            example = await _prepare(ledger, client, talk)
            talk.say("Starting the worker")
            last_heartbeat = await worker.last_heartbeat(client, home)
            child = await worker.start(home, prefect)
            record.add_child(child)
            supervised = _supervised_child(
                child, partial(worker.start, home, prefect), record, talk
            )
            await stack.enter_async_context(supervised)
            await worker.wait_until_online(client, home, child, before=last_heartbeat)
        record.set_ready(SYSTEM_CLOCK.now())
        async with ledger.read() as session:
            count = len(await store.all_jobs(session))
        talk.ready(await _facts(vars(record), ledger, count, example, link=link))
        if example is not None:
            await runs.run(example, request_id=EXAMPLE_REQUEST_ID)
        await _watch(ledger, talk, since)


async def _facts(
    running: dict[str, Any], ledger: Ledger, count: int, example: str | None, *, link: bool
) -> dict[str, Any]:
    """Return what `UpReporter.ready` gets; ``running`` is the home's record of this `up`."""
    open_url = None
    if link:
        with suppress(PrefectUnreachable):  # `daybook open` creates another
            open_url = (await browser.link())["url"]
    return {
        "api_url": running["api_url"],
        "ui_url": running["ui_url"],
        "open_url": open_url,
        "web_url": running.get("web_url") or None,
        "ledger": ledger.place,
        "jobs": count,
        "example": example,
    }


async def _prepare(ledger: Ledger, client: PrefectClient, talk: UpReporter) -> str | None:
    """Prepare Prefect for the jobs; return the example's name while it has not run yet."""
    from daybook.prefect import reconcile

    for line in await setup.prepare(client):
        talk.say(line)
    async with ledger.read() as session:
        is_new = not await store.any_ever(session)
    if is_new:
        for fields in read(repository.root() / EXAMPLE_FILE):
            view = await add(fields)
            talk.say(f"Added the example job {view['name']}: {view['words']}")
            async with ledger.read() as session:
                added = await store.find(session, view["id"])
            await claims.request(ledger, added, EXAMPLE_REQUEST_ID, "manual")
    talk.synced(sync.report_view(await reconcile.reconcile_all(ledger, client)))
    # Requested in the ledger with the job, so that it runs even if this `up` is killed first.
    async with ledger.read() as session:
        for row in await history.live(session):
            if _is_first_run(row) and row.flow_run_id is None:
                stored = await store.get(session, str(row.job_id))
                return stored.row.name if stored else None
    return None


async def _watch(ledger: Ledger, talk: UpReporter, since: datetime) -> NoReturn:
    """Show each run that ends after ``since``, until cancelled.

    While the ledger is unreachable nothing is shown; runs that end in the meantime are shown
    afterwards.
    """
    cursor, shown = since, set[str]()
    pause = POLL_INTERVAL_SECONDS
    while True:
        try:
            async with ledger.read() as session:
                ended = await history.ended_since(session, cursor)
        except LedgerUnreachable as error:
            if pause == POLL_INTERVAL_SECONDS:
                talk.say(f"Cannot show outcomes now: {error}")
            pause = min(2 * pause, MAX_POLL_INTERVAL_SECONDS)
            await asyncio.sleep(pause)
            continue
        if pause != POLL_INTERVAL_SECONDS:
            talk.say("Showing outcomes again")
            pause = POLL_INTERVAL_SECONDS
        for row, job in ended:
            if row.id not in shown:
                talk.outcome(views.run(row, job))
        if ended:
            cursor = ended[-1][0].finished_at or cursor
            shown = {row.id for row, _ in ended if row.finished_at == cursor}
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the jobs of a file, each as the flat fields of `daybook.jobs.model.new_job`.

    Raise `InvalidInput` if the file is not a jobs file; `new_job` checks the fields.
    """
    import yaml

    hint = "write a mapping with `jobs`, a list of jobs"
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InvalidInput(str(path), f"is not YAML: {error}", hint) from error
    if not isinstance(content, dict) or not isinstance(content.get("jobs"), list):
        raise InvalidInput(str(path), "is not a jobs file", hint)
    return [_flat(path, job) for job in content["jobs"]]


def _flat(path: Path, job: object) -> dict[str, Any]:
    if not isinstance(job, dict):
        raise InvalidInput(str(path), f"{job!r} is not a job", "write a mapping with a schedule")
    schedule = job.get("schedule")
    if not isinstance(schedule, dict):
        return dict(job)
    return {name: value for name, value in job.items() if name != "schedule"} | schedule
