"""A ledger as a person finds it in the morning: thirty days of jobs, failures, messages, tasks.

Rows are written directly: the pages show every row that is stored. Times are relative to the
ledger's time; random choices are the same in each call.
"""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from daybook.features.repositories.tables import ChangeRow
from daybook.features.tasks import queue, sessions
from daybook.jobs import store
from daybook.jobs.model import edit, new_job
from daybook.jobs.store import StoredJob
from daybook.jobs.upcoming import between
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import (
    AttemptRow,
    JobRow,
    LeadRow,
    MessageRow,
    OutboxRow,
    RunRow,
    SessionRow,
    StepRow,
)
from tests.world.runs import step_of

ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
"""Text that changes the page's title if a page runs it."""

ATTACKING_LINKS = "[x](javascript:alert(1)) ![y](http://192.0.2.1/y.png)"

ANSWER = """\
# Pull requests

Three are **waiting for a review**, one has failing checks.

| request | author | state |
|---|---|---|
| 412 Retry budget | maria | waiting since Tuesday |
| 418 Time zones | otto | `checks failed` |

1. Review 412 first: two others depend on it.
2. Ask otto about the daylight-saving test.

> The release is on Friday.
"""

_PROMPTS = (
    ("morning-brief", "0 8 * * *", "writer", "Summarise the pull requests since yesterday."),
    ("inbox-triage", "*/30 7-19 * * *", "default", "Sort the new mail by urgency."),
    ("release-notes", "0 16 * * 5", "writer", "Draft the release notes from the merged requests."),
    ("dependency-watch", "15 6 * * *", "coder", "Which dependencies have an advisory?"),
    ("competitor-news", "0 7,13,18 * * *", "research", "What did competitors announce?"),
    ("flaky-tests", "0 */3 * * *", "coder", "Which tests failed and then passed on main?"),
    ("support-digest", "30 17 * * 1-5", "default", "Summarise the support tickets of today."),
    ("weather-check", "5 * * * *", "default", "Will it rain in Berlin in the next three hours?"),
    ("invoice-reminder", "0 9 1 * *", "default", "Which invoices are overdue?"),
    ("log-review", "45 5 * * *", "coder", "What is unusual in the logs of last night?"),
)
JOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(
        (name, {"cron": cron, "agent": agent, "prompt": prompt, "tags": [agent]})
        for name, cron, agent, prompt in _PROMPTS
    ),
    ("nightly-export", {"cron": "0 2 * * *", "url": "https://api.example.org/export"}),
    ("refresh-index", {"cron": "20 */4 * * *", "url": "https://search.example.org/refresh"}),
)

DAYS = 20
_COSTS = {"writer": 0.021, "coder": 0.034, "research": 0.012, "default": 0.0031}


async def fill(ledger: Ledger, days: int = DAYS, *, attacks: bool = True) -> None:
    """Write the jobs, runs, messages and tasks into an empty ledger, with runs of ``days``.

    With ``attacks``, some of their texts are HTML and scripts.
    """
    dice, now = random.Random(7), ledger.now()
    start = now - timedelta(days=days)
    jobs: dict[str, StoredJob] = {}
    async with ledger.write() as session:
        for name, fields in JOBS:
            job = new_job(now=start, default_timezone="Europe/Berlin", name=name, **fields)
            jobs[name] = await store.add(session, job, name, start)
            jobs[name].row.sync_pending = False
            jobs[name].row.audited_until = now
        session.add(LeadRow(name="keeper", holder="desk", until=now + timedelta(hours=1), fence=1))
    for stored in jobs.values():
        await _history(ledger, stored, start, now, dice)
    await _trouble(ledger, jobs, now)
    await _messages(ledger, jobs, now)
    if attacks:
        await _attack(ledger, now)
    await queue.add(ledger, "Review the open pull requests", instructions="Start with 412.")
    await queue.add(ledger, "Translate the release notes", capabilities=["german"], priority="high")
    await sessions.register(ledger, "maria-desk", agent="coder", capabilities=["python"])


async def _history(
    ledger: Ledger, stored: StoredJob, start: datetime, now: datetime, dice: random.Random
) -> None:
    job = stored.job
    last: RunRow | None = None
    count = 0
    async with ledger.write() as session:
        for due in between(job.schedule, job.policy, start, now - timedelta(minutes=5)):
            status = dice.choices(
                ("succeeded", "failed", "timed_out", "missed", "skipped"), (95, 2, 0.6, 1, 1.4)
            )[0]
            row = run(stored, due, status, dice)
            session.add(row)
            last, count = row, count + 1
            if row.attempts:
                await session.flush()
                session.add(attempt(row))
        if last is not None:
            found = await session.get(JobRow, stored.id)
            assert found is not None
            found.last_run_id, found.last_run_at = last.id, last.due
            found.last_status, found.last_error = last.status, last.error
            found.run_count = count
            session.add(found)


def run(stored: StoredJob, due: datetime, status: str, dice: random.Random) -> RunRow:
    """Return a run of the job that ended with ``status``."""
    ran = status not in ("missed", "skipped")
    agent = getattr(stored.job.action, "agent", None) if ran else None
    seconds = dice.uniform(2, 40) if status != "timed_out" else 600.0
    usage = None
    if agent:
        cost = _COSTS.get(agent, 0.003) * dice.uniform(0.5, 1.6)
        usage = {
            "input_tokens": dice.randint(800, 9_000),
            "output_tokens": dice.randint(80, 900),
            "cost_usd": round(cost, 6),
            "tool_calls": dice.randint(0, 4),
        }
    begun = due + timedelta(seconds=1)
    return RunRow(
        id=uuid.UUID(int=dice.getrandbits(128)).hex,
        occurrence=f"due:{stored.id}:{due.isoformat()}",
        job_id=stored.id,
        revision=1,
        kind=stored.row.kind,
        trigger="schedule",
        due=due,
        status=status,
        reason={"missed": "no worker was running", "skipped": "overlap: a run is active"}.get(
            status, ""
        ),
        parameters={**stored.job.parameters()},
        attempts=1 if ran else 0,
        queued_at=due,
        started_at=begun if ran else None,
        finished_at=begun + timedelta(seconds=seconds) if ran else due + timedelta(minutes=2),
        output=ANSWER if agent and status == "succeeded" else None,
        error="provider returned 529: overloaded" if status == "failed" else None,
        agent=agent,
        model="sonnet-5" if agent else None,
        usage=usage,
        delivery="delivered" if ran else "not_requested",
    )


def attempt(row: RunRow, number: int = 1, **fields: Any) -> AttemptRow:
    """Return an attempt of the run, with the run's outcome."""
    given = {
        "status": row.status,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "error": row.error,
        "usage": row.usage,
    }
    return AttemptRow(run_id=row.id, number=number, fence=1, **(given | fields))


def _steps(failed: RunRow) -> list[StepRow]:
    """Return the steps of a run with three attempts: what it asked, called, and asked again."""
    begun = failed.due + timedelta(seconds=40)
    used = {"input_tokens": 2_140, "output_tokens": 96, "cost_usd": 0.0081}
    call = {"kind": "tool", "repeatable": False}
    found = [
        step_of(
            failed.id, begun, 1, name="sonnet-5", usage=used, output="I look at the last runs."
        ),
        step_of(failed.id, begun, 2, **call, position="1.1", name="ci_list_runs"),
        step_of(failed.id, begun, 3, **call, position="1.2", name="mail_send", status="unknown"),
        step_of(failed.id, begun, 4, attempt=3, position="2", name="sonnet-5", status="failed"),
    ]
    found[1].input = json.dumps({"branch": "main", "since": "2026-03-01", "states": ["failed"]})
    found[1].output = '[{"test": "test_time_zones", "failed": 3, "passed": 14}]'
    found[0].output = f"I look at the last runs.\n\n- first at **main**\n\n{ATTACK}"
    found[2].output = PATCH.format(path="clock.py", text=f"# {ATTACK}")
    found[2].input = json.dumps({"to": "otto@example.org", "text": "Three tests are flaky. " * 9})
    found[3].error, found[3].diverged = failed.error, "the model asked for something else here"
    for number, step in enumerate(found):
        step.started_at = begun + number * timedelta(seconds=3)
        step.finished_at = step.started_at + timedelta(seconds=2.4)
        if step.status == "running":
            step.status = "succeeded"
    return found


async def _trouble(ledger: Ledger, jobs: dict[str, StoredJob], now: datetime) -> None:
    """Add what needs a person, and runs that have not ended."""
    dice = random.Random(8)
    minute = timedelta(minutes=1)
    async with ledger.write() as session:
        failed = run(jobs["flaky-tests"], now - 20 * minute, "failed", dice)
        failed.attempts = 3
        failed.started_at = failed.due + timedelta(seconds=40)
        failed.finished_at = failed.due + timedelta(seconds=129)
        failed.error = "AgentTemporary: the provider returned status 529: overloaded, try later"
        failed.delivery = "failed"
        session.add(failed)
        await session.flush()
        for number in (1, 2, 3):
            begun = failed.due + number * timedelta(seconds=40)
            session.add(
                attempt(failed, number, started_at=begun, finished_at=begun + timedelta(seconds=9))
            )
        session.add_all(_steps(failed))
        session.add(change(failed))
        row = await session.get(JobRow, jobs["flaky-tests"].id)
        assert row is not None
        row.consecutive_failures, row.last_status, row.last_error = 3, "failed", failed.error
        row.last_run_id, row.last_run_at = failed.id, failed.due
        session.add(row)
        session.add(_delivery(failed, "failed", "https://ops.example.org/hook", now, tries=3))
        active = run(jobs["competitor-news"], now - minute, "succeeded", dice)
        active.status, active.finished_at, active.output = "running", None, None
        active.usage, active.delivery = None, "not_requested"
        active.lease_until = now + 10 * minute
        waiting = run(jobs["weather-check"], now - 2 * minute, "skipped", dice)
        waiting.status, waiting.finished_at = "waiting", None
        waiting.reason, waiting.until = "limit: 2 of 2 runs are active", now + 3 * minute
        session.add_all([active, waiting])
        await session.flush()
        session.add(attempt(active, status="running", finished_at=None))
        disputed = await session.get(JobRow, jobs["support-digest"].id)
        assert disputed is not None
        theirs = {**jobs["support-digest"].job.parameters(), "prompt": "Summarise the tickets."}
        disputed.conflict = {"at": now.isoformat(), "fields": {"parameters": theirs}}
        session.add(disputed)
    async with ledger.write() as session:
        stored = await store.find(session, "invoice-reminder")
        off = edit(stored.job, {"enabled": False}, now=now)
        await store.change(session, stored, off, now, disabled_reason="paused: until the new year")
    async with ledger.write() as session:
        stored = await store.find(session, "morning-brief")
        prompt = "Summarise the pull requests opened since yesterday.\nName the reviewers."
        changed = edit(stored.job, {"prompt": prompt, "cron": "30 7 * * *"}, now=now)
        await store.change(session, stored, changed, now - timedelta(days=3), source="prefect")


async def _attack(ledger: Ledger, now: datetime) -> None:
    """Add a job and a run whose texts are HTML and scripts."""
    dice = random.Random(9)
    async with ledger.write() as session:
        attacked = new_job(
            now=now, default_timezone="UTC", name=f"attack {ATTACK}", every="6h", prompt=ATTACK
        )
        stored = await store.add(session, attacked, "attack", now - timedelta(days=1))
        bad = run(stored, now - timedelta(minutes=90), "failed", dice)
        bad.output = bad.error = bad.reason = f"{ATTACK}\n\n{ATTACKING_LINKS}"
        bad.agent = bad.model = ATTACK
        session.add(bad)
        await session.flush()
        session.add(attempt(bad))
        session.add(_delivery(bad, "failed", "https://example.org/x", now, body=ATTACK))
        session.add(change(bad, f"docs/{ATTACK.replace('/', '_')}.html", f"<p>{ATTACK}</p>"))


PATCH = """\
diff --git a/{path} b/{path}
index 8c1f2aa..9b0d3c1 100644
--- a/{path}
+++ b/{path}
@@ -1,5 +1,6 @@ def wait():
 # The tests of zones wait for the clock.
-def wait(seconds=1.0):
-    clock.advance(seconds)  # flaky
+def wait(until=NOON, *, seconds=1.0):
+    # Wait with the clock of the test.
+    clock.passes(seconds)  # not flaky \u202e any more
     return {text!r}

 LIMIT = 30
diff --git a/logo.png b/logo.png
index 8c1f2aa..9b0d3c1 100644
Binary files a/logo.png and b/logo.png differ
diff --git a/uv.lock b/uv.lock
new file mode 100644
index 0000000..9b0d3c1
--- /dev/null
+++ b/uv.lock
@@ -0,0 +1 @@
+version = 1
"""
"""A patch with a file of each kind: one with lines, a binary and a generated one."""


def change(row: RunRow, path: str = "tests/zones.py", text: str = "time") -> ChangeRow:
    """Return a change of the run that waits for a person."""
    return ChangeRow(
        run_id=row.id,
        job_id=row.job_id,
        host="desk",
        repo="/home/maria/zones",
        onto="main",
        branch=f"daybook/zones/{row.id[:12]}",
        land="review",
        started_at=row.due,
        base="5e1f" * 10,
        start="5e1f" * 10,
        status="waiting",
        agent=row.agent or "",
        head="9b0d" * 10,
        recorded_at=row.finished_at,
        is_verified=False,
        insertions=4,
        deletions=2,
        files=[{"path": path, "insertions": 3, "deletions": 2}],
        problem=f"verify: make test exited with code 2 {text}",
        verification=f"1 failed: {text}",
        patch=PATCH.format(path=path, text=text),
    )


def _delivery(
    row: RunRow, status: str, to: str, now: datetime, *, tries: int = 1, body: str = "{}"
) -> OutboxRow:
    at = row.finished_at or now
    return OutboxRow(
        key=f"{row.id}:{to}",
        purpose="callback",
        event="failed",
        run_id=row.id,
        job_id=row.job_id,
        queue=to,
        address=to,
        status=status,
        attempts=tries,
        next_at=at,
        created_at=at,
        finished_at=now,
        error="status 502" if status == "failed" else None,
        tries=[
            {
                "at": (at + number * timedelta(seconds=30)).astimezone(UTC).isoformat(),
                "seconds": 0.4,
                "status_code": 502,
                "error": "status 502",
            }
            for number in range(tries)
        ],
        subject=body,
        body=body,
    )


async def _messages(ledger: Ledger, jobs: dict[str, StoredJob], now: datetime) -> None:
    async with ledger.write() as session:
        for number, (name, event, subject) in enumerate(
            (
                ("morning-brief", "completed", "morning-brief: three requests wait for a review"),
                ("flaky-tests", "failed", "flaky-tests: failed 3 times in a row"),
                ("log-review", "completed", "log-review: nothing unusual"),
            )
        ):
            at = now - timedelta(hours=number, minutes=12)
            session.add(
                OutboxRow(
                    key=f"inbox:{number}",
                    purpose="message",
                    event=event,
                    job_id=jobs[name].id,
                    queue="channel:inbox",
                    address="inbox",
                    status="delivered",
                    next_at=at,
                    created_at=at,
                    finished_at=at,
                    subject=subject,
                    body=ANSWER,
                    read_at=at if number == 2 else None,
                )
            )
        talk = SessionRow(
            id="writer:team",
            agent="writer",
            title="What is new in the repository?",
            job_id=jobs["morning-brief"].id,
            created_at=now - timedelta(days=2),
            updated_at=now - timedelta(hours=2),
        )
        session.add(talk)
        await session.flush()
        brief = await session.get_one(JobRow, jobs["morning-brief"].id)
        for number, (role, content) in enumerate(
            (("user", "What is new in the repository?"), ("assistant", ANSWER), ("user", ATTACK)), 1
        ):
            session.add(
                MessageRow(
                    session_id=talk.id,
                    number=number,
                    role=role,
                    content=content,
                    source={"kind": "agent-prompt"},
                    run_id=brief.last_run_id or "",
                    at=now - timedelta(hours=3),
                )
            )
