"""Part of the start of `up` that talks to Prefect, in a process that ends afterwards.

In the process of `up`, the imports and data of Prefect's client and of the first sync would occupy
30 MB of memory. So a child of `up` does this work (`start`). The child reports through a pipe, in
lines of JSON::

    child                                                         up
    block types, pool, agent, example job, first sync
    Message.PREPARED                                         ──►  starts the worker
    waits until the worker is online, Message.ONLINE         ──►  is ready
    requests the example's first run, Message.FACTS          ──►  shows them
"""

from __future__ import annotations

from daybook import home as homes

if __name__ == "__main__":
    # Configure Prefect before its import, because Prefect reads the environment only once.
    homes.configure_prefect()

import argparse
import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, Field

from daybook import errors, feature, repository, settings
from daybook.api import runs
from daybook.api.sync import SyncReport
from daybook.errors import DaybookError, PageUnreachable, PrefectUnreachable, Unreachable
from daybook.files import jobs_file
from daybook.files.jobs_file import FileText
from daybook.jobs import store
from daybook.jobs.model import Job, new_job
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import RunRow
from daybook.operations import browser, home_lock, setup, supervision, worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.prefect import client as connection
from daybook.prefect import reconcile
from daybook.processes import children, image
from daybook.runs import claim_requests, claims, history

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MODULE = "daybook.operations.preparation"
"""Name of this module; in the child's process, `__name__` is `__main__`."""
EXAMPLE_FILE = "deployments/jobs/example.yaml"
EXAMPLE_REQUEST_ID = "first-light"
"""Request id of the example's first run.

Because of this id, the run happens once in a ledger's life.
"""
SYNC_SECONDS = 10.0
"""Time after which the start leaves the rest of the first sync to the keeper."""
PAGES_TIMEOUT_SECONDS = 10.0
"""Maximum time that the start waits for the web server before it prints a link to the pages."""
POLL_INTERVAL_SECONDS = 0.5
MAX_LINE_BYTES = 2**26
"""Maximum length of a message in bytes.

The largest message is a sync report that names each job.
"""
StartedBy = Literal["", "detach", "service"]
"""Starter of an `up` in the background; empty for an `up` in the foreground of a terminal."""


class UpFacts(BaseModel, frozen=True):
    """Facts about a started `up`: addresses, the number of ``jobs`` in the ledger, and others.

    - ``open_url`` is a one-time link to Daybook's pages; None if no link was requested or made.
    - ``prefect_open_url`` is a one-time link to Prefect's UI, or the UI's plain address if `up` did
      not start the server. The field is None if no link was requested or made.
    - ``web_url`` is the address of Daybook's pages and of `/health`; None while no process serves
      them.
    - ``example`` is the name of the example job if this start runs the job for the first time.
    - ``model_steps`` has descriptions and commands of the steps after which the agent `default`
      asks a model. The list is empty if the agent is not offline.
    - ``started_by`` is the starter of an `up` in the background.
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


class Reporter(Protocol):
    """Output of the preparation."""

    def say(self, line: str) -> None:
        """Show a step of the start or of the stop."""
        ...

    def progress(self, line: str) -> None:
        """Show the time for which the start has waited."""
        ...

    def synced(self, report: SyncReport) -> None:
        """Show the result of the first sync."""
        ...


# --- in `up`


class MessageKind(StrEnum):
    """Kinds of the child's messages, besides the names of `Reporter`'s methods."""

    PREPARED = "prepared"
    ONLINE = "online"
    FACTS = "facts"
    ERROR = "error"


class Preparation:
    """The child's messages to `up`."""

    def __init__(self, child: children.Child, reader: asyncio.StreamReader, talk: Reporter) -> None:
        self._child, self._reader, self._talk = child, reader, talk

    async def wait_for(self, expected: MessageKind) -> Any:
        """Return the content of the next ``expected`` message; show the messages before it.

        Raise the error that the child reports. Raise `DaybookError` if the child ends without
        sending the message.
        """
        while line := await self._reader.readline():
            kind, content = json.loads(line)
            if kind == expected:
                return content
            if kind == MessageKind.ERROR:
                raise _as_error(content)
            if kind == "synced":
                content = SyncReport.model_validate(content)
            getattr(self._talk, kind)(content)
        raise DaybookError(f"the preparation of Prefect has ended\n{self._child.tail()}".rstrip())


@asynccontextmanager
async def start(
    home: homes.Home,
    prefect: SelectedPrefect,
    record: home_lock.UpRecord,
    talk: Reporter,
    *,
    link: bool,
    forked_from: image.Image | None = None,
) -> AsyncIterator[Preparation]:
    """Run the child while the block runs; its log is `logs/preparation.log`."""
    child, reader = await children.start_reporting(
        "preparation",
        [*image.PYTHON_MODULE, MODULE, *(["--link"] if link else [])],
        "--report",
        environment=worker.environment(home, prefect),
        log=home.logs / "preparation.log",
        folder=home.path,
        forked_from=forked_from,
    )
    try:
        with os.fdopen(reader, "rb") as pipe:
            await supervision.record_or_end(record, child)
            lines = asyncio.StreamReader(MAX_LINE_BYTES)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), pipe
            )
            with closing(transport):
                yield Preparation(child, lines, talk)
    finally:
        await child.terminate()
        # If the disk is full, the next change of the record writes this change too.
        with suppress(OSError):
            record.remove_child(child)


def _as_error(content: Mapping[str, Any]) -> DaybookError:
    found: type[DaybookError] = getattr(errors, content["class"], DaybookError)
    error = found.__new__(found)
    error.args = (content["message"],)
    vars(error).update(content["attributes"])
    return error


# --- in the child


class _Pipe:
    """A `Reporter` that sends messages to `up`."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._file = os.fdopen(descriptor, "w")

    def send(self, kind: str, content: Any = None) -> None:
        self._file.write(json.dumps([kind, content], default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def say(self, line: str) -> None:
        self.send("say", line)

    def progress(self, line: str) -> None:
        self.send("progress", line)

    def synced(self, report: SyncReport) -> None:
        self.send("synced", report.model_dump(mode="json"))


async def _work(talk: _Pipe, *, link: bool) -> None:
    home = homes.current_home()
    async with open_ledger() as ledger, connection.connected() as client:
        example = await prepare(ledger, client, talk)
        last_heartbeat = await worker.last_heartbeat(client, home)
        talk.send(MessageKind.PREPARED)
        await worker.wait_until_online(client, home, before=last_heartbeat, progress=talk.progress)
        talk.send(MessageKind.ONLINE)
        if example is not None:
            await runs.run(example, request_id=EXAMPLE_REQUEST_ID)
        facts = await read_facts(ledger, home.running() or {}, example=example, link=link)
        talk.send(MessageKind.FACTS, facts.model_dump(mode="json"))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}")
    parser.add_argument("--report", type=int, required=True, help="descriptor of the pipe")
    parser.add_argument("--link", action="store_true")
    given = parser.parse_args(arguments)
    with suppress(BrokenPipeError), closing(_Pipe(given.report)) as talk:  # `up` may have ended
        try:
            asyncio.run(_work(talk, link=given.link))
        except DaybookError as error:
            name, text = type(error).__name__, str(error)
            content = {"class": name, "message": text, "attributes": vars(error)}
            talk.send(MessageKind.ERROR, content)
            return error.exit_code
        except BrokenPipeError:
            raise
        except Exception as error:
            # The traceback goes to the log. Python would write it only after the pipe is closed.
            traceback.print_exc()
            text = f"the preparation of Prefect has failed: {error!r}; see logs/preparation.log"
            content = {"class": DaybookError.__name__, "message": text, "attributes": {}}
            talk.send(MessageKind.ERROR, content)
            return 1
    return 0


def is_first_run(row: RunRow) -> bool:
    return row.occurrence == claim_requests.request_key(str(row.job_id), EXAMPLE_REQUEST_ID)


async def read_facts(
    ledger: Ledger, running: homes.RunningUp, *, example: str | None, link: bool = True
) -> UpFacts:
    """Return the facts about a running `up`.

    ``running`` has the fields of the `home_lock.UpRecord` of this `up`. ``example`` is the name of
    the example job, or None if this start does not run it. With ``link``, create one-time links.
    """
    async with ledger.read() as session:
        count = len(await store.live_names(session))
    open_url = prefect_open_url = None
    model_steps = list[tuple[str, str]]()
    if link:
        running = await _until_pages_answer(running)
        with suppress(PageUnreachable):  # `daybook open` can create another link
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


async def _until_pages_answer(running: homes.RunningUp) -> homes.RunningUp:
    """Wait until the web server answers, and return the new record of `up`.

    Wait at most `PAGES_TIMEOUT_SECONDS`. The web server starts at the same time as the worker, and
    usually answers first. Do not wait if the setting `web_port` is 0.
    """
    started = time.monotonic()
    while settings.load().web_port and not running.get("web_url"):
        if time.monotonic() - started > PAGES_TIMEOUT_SECONDS:
            break
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
        running = homes.current_home().running() or running
    return running


async def prepare(ledger: Ledger, client: PrefectClient, talk: Reporter) -> str | None:
    """Prepare Prefect for the jobs, and add the example job to a new ledger.

    Return the example job's name if its first run is not in Prefect yet, otherwise None. Raise
    `InvalidInput` if the work pool has another type.
    """
    for line in await setup.prepare(client):
        talk.say(line)
    for each in feature.features():
        try:
            if each.at_start:
                await each.load(each.at_start)(ledger, talk.say)
        except Unreachable:
            raise
        except Exception as error:  # the jobs of the other parts can run
            talk.say(f"The feature {each.name} failed: {type(error).__name__}: {error}")
    for job in await add_example(ledger):
        talk.say(f"Added the example job {job.name}: {job.schedule.describe()}")
    report = await reconcile.reconcile_all(ledger, client, most_seconds=SYNC_SECONDS)
    talk.synced(SyncReport.of(report))
    if report.left:
        talk.say(f"The keeper syncs {report.left} more jobs with Prefect in the background")
    # `add_example` adds the job and its first run in one transaction. So if `up` was killed after
    # that, the next start still runs the example.
    async with ledger.read() as session:
        for row in await history.live(session):
            if is_first_run(row) and row.flow_run_id is None:
                stored = await store.get(session, str(row.job_id))
                return stored.row.name if stored else None
    return None


async def add_example(ledger: Ledger) -> list[Job]:
    """Add the example job and its first run in one transaction.

    Return the added jobs; an empty list if the ledger has ever had a job.
    """
    zone = settings.load().timezone
    async with ledger.write() as session:
        if await store.has_jobs(session):
            return []
        jobs, now = list[Job](), ledger.now()
        path = repository.root() / EXAMPLE_FILE
        for fields in jobs_file.job_fields(FileText(path.name, path.read_text())):
            jobs.append(new_job(now=now, default_timezone=zone, **fields))
            stored = await store.add(session, jobs[-1], jobs[-1].name, now)
            key = claim_requests.request_key(stored.id, EXAMPLE_REQUEST_ID)
            session.add(claims.new_requested_row(stored, key, "manual", now, now))
        return jobs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
