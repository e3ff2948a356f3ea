"""A ledger in which every text that a page shows is HTML with a script.

Each place has a text of its own (`payload`), so a test knows which places a page has shown. Rows
are written directly: the pages show every stored row.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from daybook.api.runs import LogLine
from daybook.clock import SYSTEM_CLOCK
from daybook.features.tasks import queue
from daybook.jobs import store as jobs
from daybook.jobs.model import edit, new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow, MessageRow, OutboxRow, RevisionRow, SessionRow
from tests import morning

TITLE = "666"
"""Title of a page that ran a stored script."""
TAGS = ("img", "iframe", "object", "embed")
"""Elements of the texts that no page has itself."""
ATTRIBUTES = ("style", "srcdoc", "ping", "background")
SCHEMES = ("javascript:", "data:", "vbscript:", "//")

MARKS = (
    *("job", "description", "tag", "disabled", "last-error", "author", "conflict"),
    *("prompt", "old-prompt", "answer", "agent", "model", "error", "reason", "attempt", "evidence"),
    *("log", "session", "session-text", "session-answer", "url", "body", "tool", "params"),
    *("callback-subject", "callback-body", "callback-answer", "callback-try", "address"),
    *("message", "message-text", "task", "instructions"),
    *("host", "onto", "branch", "problem", "path", "line", "verification", "left-out"),
)
"""Names of the places."""


def payload(mark: str) -> str:
    """Return the text of a place; a page that runs it changes its title."""
    return (
        f'{mark}"><img src=x onerror=document.title={TITLE}><script>document.title={TITLE}</script>'
    )


LINKS = f"[link](javascript:document.title={TITLE}) ![picture](http://192.0.2.1/y.png)"


@dataclass(frozen=True)
class Stored:
    """The addresses of all pages that show the texts."""

    pages: list[str]


async def store(ledger: Ledger) -> Stored:
    """Write one job, run, delivery, message, conversation and task with such texts."""
    now, dice = ledger.now(), random.Random(9)
    prompt = new_job(
        now=now,
        default_timezone="UTC",
        name=payload("job"),
        cron="0 */6 * * *",
        prompt=payload("old-prompt"),
        description=payload("description"),
        tags=[payload("tag")],
    )
    call = new_job(
        now=now,
        default_timezone="UTC",
        name="webhook",
        every="6h",
        url="https://example.org/hook",
        body=payload("body"),
    )
    tool = new_job(
        now=now,
        default_timezone="UTC",
        name="tool",
        every="6h",
        tool=payload("tool"),
        params={"text": payload("params")},
    )
    begun = now - timedelta(days=1)
    async with ledger.write() as session:
        stored = await jobs.add(session, prompt, "attack", begun)
        calling = await jobs.add(session, call, "webhook", begun)
        using = await jobs.add(session, tool, "tool", begun)
    async with ledger.write() as session:
        changed = edit(stored.job, {"prompt": payload("prompt"), "enabled": False}, now=now)
        stored = await jobs.change(
            session,
            stored,
            changed,
            now,
            disabled_reason=payload("disabled"),
        )
    bad = morning.run(stored, now - timedelta(minutes=90), "failed", dice)
    called = morning.run(calling, now - timedelta(minutes=80), "failed", dice)
    used = morning.run(using, now - timedelta(minutes=70), "failed", dice)
    bad.output = f"{payload('answer')}\n\n{LINKS}"
    bad.error, bad.reason = payload("error"), payload("reason")
    bad.agent, bad.model = payload("agent"), payload("model")
    bad.evidence = [{"error": payload("evidence")}]
    bad.session_id, bad.flow_run_id = "talk", "0" * 8 + "-0000-4000-8000-" + "0" * 12
    called.parameters |= {"url": f"https://example.org/{payload('url')}"}
    shared: dict[str, Any] = {"next_at": now, "created_at": now, "finished_at": now}
    sent = OutboxRow(
        key="callback",
        purpose="callback",
        event="failed",
        run_id=bad.id,
        job_id=stored.id,
        queue=payload("address"),
        address=payload("address"),
        status="failed",
        attempts=1,
        error=payload("callback-answer"),
        tries=[{"at": now.isoformat(), "seconds": 0.4, "error": payload("callback-try")}],
        subject=payload("callback-subject"),
        body=payload("callback-body"),
        **shared,
    )
    message = OutboxRow(
        key="message",
        purpose="message",
        event="failed",
        job_id=stored.id,
        queue="channel:inbox",
        address="inbox",
        status="delivered",
        subject=payload("message"),
        body=f"{payload('message-text')}\n\n{LINKS}",
        **shared,
    )
    talk = SessionRow(
        id="talk",
        agent=payload("agent"),
        title=payload("session"),
        job_id=stored.id,
        created_at=now,
        updated_at=now,
    )
    async with ledger.write() as session:
        row = await session.get_one(JobRow, stored.id)
        revision = await session.get_one(RevisionRow, (stored.id, 1))
        revision.source = payload("author")
        row.last_error, row.last_status, row.last_run_id = payload("last-error"), "failed", bad.id
        row.consecutive_failures = 2
        theirs = {**stored.job.parameters(), "prompt": payload("conflict")}
        row.conflict = {"at": now.isoformat(), "fields": {"parameters": theirs}}
        session.add_all([row, revision, bad, called, used, sent, message, talk])
        await session.flush()
        session.add(morning.attempt(bad, error=payload("attempt")))
        change = morning.change(bad, payload("path"), payload("line"))
        change.host, change.onto, change.branch = (
            payload("host"),
            payload("onto"),
            payload("branch"),
        )
        change.problem, change.verification = payload("problem"), payload("verification")
        change.notes = [payload("left-out")]
        session.add(change)
        for number, (role, mark) in enumerate(
            (("user", "session-text"), ("assistant", "session-answer")), 1
        ):
            session.add(
                MessageRow(
                    session_id="talk",
                    number=number,
                    role=role,
                    content=f"{payload(mark)}\n\n{LINKS}",
                    source={"kind": "agent-prompt"},
                    run_id=bad.id,
                    at=now,
                )
            )
        await session.flush()
        ids = [sent.id, message.id]
    task, _ = await queue.add(
        ledger, payload("task")[:100], instructions=payload("instructions"), capabilities=["x"]
    )
    return Stored(
        [
            *("/", "/jobs", "/runs", "/inbox", "/callbacks", "/tasks", "/sessions", "/agents"),
            *(f"/spend?by={each}" for each in ("job", "agent", "model")),
            *(f"/jobs/{each.id}" for each in (stored, calling, using)),
            *(f"/jobs/{each.id}/edit" for each in (stored, calling, using)),
            *(f"/runs/{each.id}" for each in (bad, called, used)),
            f"/runs/{bad.id}/log",
            *("/changes", f"/changes/{bad.id}", f"/changes/{bad.id}?view=split"),
            f"/callbacks/{ids[0]}",
            f"/inbox/{ids[1]}",
            f"/tasks/{task.id}",
            "/sessions/talk",
            "/jobs?"
            + "&".join(f"{name}=%22%3E%3Cimg+src%3Dx%3E" for name in ("q", "tag", "agent")),
        ]
    )


async def log(ref: str) -> AsyncIterator[LogLine]:
    """Yield what `daybook.api.runs.logs` would read from Prefect."""
    yield LogLine(at=SYSTEM_CLOCK.now(), level=40, message=payload("log"))


async def no_prefect() -> None:
    """Import nothing of Prefect."""
