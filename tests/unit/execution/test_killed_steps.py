"""An agent's process is killed at each of its steps, and the run continues in another one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daybook.execution import journal
from daybook.ledger.tables import RunRow
from daybook.runs import claims, leases
from tests.providers import Answer, ModelRequest, Provider, provider
from tests.unit.execution import killed_steps
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import sends
from tests.world.jobs import Jobs

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MAILS = 5
STEPS = 2 * MAILS + 1


def next_mail(request: ModelRequest) -> Answer:
    """Call the tool until it has replied five times."""
    replies = sum(each["role"] == "tool" for each in request.body["messages"])
    return Answer("All sent.") if replies == MAILS else sends(f"mail {replies + 1}")


class Runner:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def attempt(self, run: str, point: str = "", at: int = 0, **more: str) -> int:
        """Make an attempt in a process of its own; return the signal that ended it, or 0."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"run": run, "point": point, "at": at, **more}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def runner(active: ActiveRun, fake_provider: Provider, effects: Path) -> Iterator[Runner]:
    arguments = [active.ledger.address, fake_provider.address, str(effects)]
    with subprocess.Popen(
        [sys.executable, "-m", killed_steps.__name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Runner(process)
        assert process.stdin is not None
        process.stdin.close()


async def lost(active: ActiveRun, run: RunRow, *, with_worker: bool) -> None:
    """Let the worker, or after its death the keeper, find that the run's process is gone."""
    if with_worker:
        active.query("UPDATE runs SET lease_until = '2020-01-01', suspected_at = '2020-01-01'")
        assert await leases.expire_all(active.ledger)
    else:
        await claims.holder_died(active.ledger, run.id, run.fence, "its process was killed")
    active.query("UPDATE runs SET until = queued_at")


async def row_of(active: ActiveRun, name: str) -> RunRow:
    key = killed_steps.claim_request(name).occurrence
    ((run_id,),) = active.query(f"SELECT id FROM runs WHERE occurrence = '{key}'")
    async with active.ledger.read() as session:
        row = await session.get(RunRow, run_id)
    assert row is not None
    return row


@pytest.mark.timeout(240)
async def test_a_killed_run_pays_no_finished_step_twice_and_repeats_no_effect(
    active: ActiveRun, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    active.query("UPDATE runs SET status = 'succeeded', lease_until = NULL")
    kills = [("finish", number) for number in range(1, STEPS)]
    kills += [("start", 3), ("start", 4), ("effect", 2)]
    with provider() as fake_provider, runner(active, fake_provider, effects) as process:
        fake_provider.script = [next_mail]
        for number, (point, at) in enumerate(kills):
            name = f"{point}-{at}"
            fake_provider.requests.clear()
            effects.write_text("")
            assert process.attempt(name, point, at) == 9, name
            await lost(active, await row_of(active, name), with_worker=number % 2 == 0)
            assert process.attempt(name) == 0, name

            row = await row_of(active, name)
            assert (row.status, row.output, row.attempts) == ("succeeded", "All sent.", 2), name
            # Each run, which is another occurrence, makes all of its requests.
            assert len(fake_provider.requests) == MAILS + 1, name
            done = Counter(effects.read_text().splitlines())
            made = [f"mail {each}" for each in range(1, MAILS + 1)]
            reads_unknown = journal.UNKNOWN in str(fake_provider.requests[-1].body)
            if (point, at) == ("start", 4):  # the second mail: started, but not sent
                made.remove("mail 2")
            assert done == Counter(made), name
            assert reads_unknown == (point != "finish" and (point, at) != ("start", 3)), name


@pytest.mark.timeout(240)
async def test_a_killed_run_keeps_the_instructions_of_a_project_that_it_has_changed(
    active: ActiveRun, tmp_path: Path
) -> None:
    effects, file = tmp_path / "effects", tmp_path / "AGENTS.md"
    effects.touch()
    active.query("UPDATE runs SET status = 'succeeded', lease_until = NULL")
    with provider() as fake_provider, runner(active, fake_provider, effects) as process:
        fake_provider.script = [next_mail]
        # A project's instructions are no step of these numbers: they have no `start`.
        for number, (point, at) in enumerate([("finish", 4), ("start", 3), ("effect", 2)]):
            name = f"{point}-{at}"
            fake_provider.requests.clear()
            file.write_text("Send five mails, and no more.")
            project = str(tmp_path)
            assert process.attempt(name, point, at, project=project) == 9, name
            assert file.read_text() == f"mail {2 if at != 3 else 1}", name
            await lost(active, await row_of(active, name), with_worker=number % 2 == 0)
            assert process.attempt(name, project=project) == 0, name

            assert (await row_of(active, name)).output == "All sent.", name
            assert len(fake_provider.requests) == MAILS + 1, name
            texts = [each.messages[0][1] for each in fake_provider.requests]
            assert len({*texts}) == 1, name
            assert "Send five mails, and no more." in texts[0], name


CALLS = [
    ("memory_append", {"text": "tea"}),
    ("notify_send", {"text": "Half is done."}),
    ("memory_append", {"text": "tea"}),  # a second equal call has an effect of its own
    ("notify_send", {"text": "Half is done."}),
    ("memory_replace", {"old": "tea\ntea", "new": "tea and tea"}),
]


def next_call(request: ModelRequest) -> Answer:
    replies = sum(each["role"] == "tool" for each in request.body["messages"])
    if replies == len(CALLS):
        return Answer("All done.")
    tool, arguments = CALLS[replies]
    return Answer("", tool=tool, arguments=arguments)


@pytest.mark.timeout(240)
async def test_a_killed_run_repeats_no_note_and_no_message(
    active: ActiveRun, tmp_path: Path
) -> None:
    active.query("UPDATE runs SET status = 'succeeded', lease_until = NULL")
    (tmp_path / "effects").touch()
    with (
        provider() as fake_provider,
        runner(active, fake_provider, tmp_path / "effects") as process,
    ):
        fake_provider.script = [next_call]
        # The first call is the second step; after its effect, its reply is not recorded.
        kills = [("effect", number) for number in range(1, len(CALLS) + 1)] + [("start", 2)]
        for number, (point, at) in enumerate(kills):
            name = f"{point}-{at}"
            job = await Jobs(active.ledger).add(name, on_demand=True)
            assert process.attempt(name, point, at, job=job.id) == 9, name
            await lost(active, await row_of(active, name), with_worker=number % 2 == 0)
            assert process.attempt(name, job=job.id) == 0, name

            row = await row_of(active, name)
            assert (row.status, row.output, row.attempts) == ("succeeded", "All done.", 2), name
            texts = active.query(
                "SELECT text FROM memory_versions JOIN memory_notebooks ON id = notebook_id "
                f"WHERE job_id = '{job.id}' ORDER BY number"
            )
            assert texts == [("tea",), ("tea\ntea",), ("tea and tea",)], name
            sent = active.query(
                f"SELECT body FROM outbox WHERE run_id = '{row.id}' AND event = 'message'"
            )
            assert sent == [("Half is done.",)] * 2, name
