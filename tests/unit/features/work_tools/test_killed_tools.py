"""An agent's process is killed while it writes, edits, reads or runs a command (issue 59)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daybook.execution import journal
from daybook.ledger.tables import RunRow
from daybook.runs import claims, leases
from tests import rows
from tests.providers import Answer, ModelRequest, Provider, provider
from tests.unit.execution import killed_steps
from tests.unit.execution.conftest import ActiveRun, active
from tests.unit.features.work_tools import killed_tools

__all__ = ["active"]

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EFFECT = 'printf "command\\n" >> "{effects}"'
CALLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "write": ("files_write", {"path": "a.txt", "content": "new"}),
    "edit": ("files_edit", {"path": "a.txt", "old": "end", "new": "more end"}),
    "read": ("files_read", {"path": "a.txt"}),
    "command": ("shell_run", {"command": EFFECT}),
    # The command kills the run's process, which is its parent, after its effect.
    "killer": ("shell_run", {"command": f"{EFFECT}; kill -9 $PPID"}),
}

KILLS = (
    # name of the call, point, the n-th such event, number of effects, is the outcome unknown
    ("write", "start", 2, 0, True),
    ("write", "rename", 1, 0, True),
    ("write", "renamed", 1, 1, True),
    ("edit", "rename", 1, 0, True),
    ("edit", "renamed", 1, 1, True),
    ("edit", "finish", 2, 1, False),
    ("command", "start", 2, 0, True),
    ("command", "finish", 2, 1, False),
    ("killer", "never", 1, 1, True),
    ("read", "start", 2, 0, False),
)


class Runner:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def attempt(self, run: str, point: str = "", at: int = 0) -> int:
        """Make an attempt in a process of its own; return the signal that ended it, or 0."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"run": run, "point": point, "at": at}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def runner(
    active: ActiveRun, fake_provider: Provider, work: Path, effects: Path
) -> Iterator[Runner]:
    arguments = [active.ledger.address, fake_provider.address, str(work), str(effects)]
    with subprocess.Popen(
        [sys.executable, "-m", killed_tools.__name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"DAYBOOK_ALLOW_SHELL": "true"},
        text=True,
    ) as process:
        yield Runner(process)
        assert process.stdin is not None
        process.stdin.close()


async def lost(active: ActiveRun, name: str, *, with_worker: bool) -> None:
    """Let the worker, or after its death the keeper, find that the run's process is gone."""
    row = await row_of(active, name)
    if with_worker:
        active.query("UPDATE runs SET lease_until = '2020-01-01', suspected_at = '2020-01-01'")
        assert await leases.expire_all(active.ledger)
    else:
        await claims.holder_died(active.ledger, row.id, row.fence, "its process was killed")
    active.query("UPDATE runs SET until = queued_at")


async def row_of(active: ActiveRun, name: str) -> RunRow:
    key = killed_steps.claim_request(name).occurrence
    ((run_id,),) = active.query(f"SELECT id FROM runs WHERE occurrence = '{key}'")
    async with active.ledger.read() as session:
        row = await session.get(RunRow, run_id)
    assert row is not None
    return row


@pytest.mark.timeout(240)
async def test_a_killed_run_writes_and_runs_nothing_twice(
    active: ActiveRun, work: Path, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    effects.touch()
    active.query("UPDATE runs SET status = 'succeeded', lease_until = NULL")
    with provider() as fake_provider, runner(active, fake_provider, work, effects) as process:
        for number, ((call, point, at, expected, is_unknown), trying) in enumerate(
            rows.each(KILLS)
        ):
            with trying:
                name = f"{call}-{point}-{at}"
                effects.write_text("")
                (work / "a.txt").write_text("the end")
                fake_provider.requests.clear()
                tool, given = CALLS[call]
                given = json.loads(json.dumps(given).replace("{effects}", str(effects)))

                def script(
                    request: ModelRequest, tool: str = tool, given: Mapping[str, Any] = given
                ) -> Answer:
                    """Make the call once, and once more if its outcome is unknown."""
                    replies = [m for m in request.body["messages"] if m["role"] == "tool"]
                    unknown = [m for m in replies if journal.UNKNOWN in str(m)]
                    if not replies or (len(replies) == 1 and unknown):
                        return Answer("", tool=tool, arguments=given)
                    return Answer("Done.")

                fake_provider.script = [script]
                assert process.attempt(name, point, at) == 9
                await lost(active, name, with_worker=number % 2 == 0)
                assert process.attempt(name) == 0

                row = await row_of(active, name)
                assert (row.status, row.output, row.attempts) == ("succeeded", "Done.", 2)
                assert len(effects.read_text().splitlines()) == expected
                reads_unknown = journal.UNKNOWN in str(fake_provider.requests[-1].body)
                assert reads_unknown == is_unknown
                content = (work / "a.txt").read_text()
                is_done = bool(expected)
                assert content == {
                    "write": ("the end", "new")[is_done],
                    "edit": ("the end", "the more end")[is_done],
                }.get(call, "the end")
                kept = active.query(
                    f"SELECT content FROM work_tools_files WHERE run_id = '{row.id}'"
                )
                has_copy = (call, point) == ("edit", "finish")
                assert kept == ([(content.encode(),)] if has_copy else [])
