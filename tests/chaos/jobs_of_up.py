"""A `daybook up` with one frequent job, whose effects are counted outside of Daybook."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from tests import sentences
from tests.e2e.first_light import Up
from tests.servers import migrate

STEP = timedelta(seconds=10)
PATIENCE_SECONDS = 900.0


class CountedUp(Up):
    """`up` with the job `ten`, which is due each `STEP` and appends a line to a file."""

    def __init__(
        self, home: Path, folder: Path, ledger: Path, variables: Mapping[str, str]
    ) -> None:
        fixed = {
            "DAYBOOK_LEDGER_URL": f"sqlite+aiosqlite:///{ledger}",
            "DAYBOOK_TIMEZONE": "UTC",  # of the due times in the lines that `up` prints
        }
        migrate(Home(home))
        super().__init__(home, folder, variables=fixed | dict(variables))
        self._ledger = ledger
        self.shift = timedelta()
        """How much the clock of its processes is ahead of the machine's."""

    def begin(self) -> None:
        """Wait until everything runs, and add the job."""
        self.until(lambda lines: bool(self.outcomes("first-light")), within=PATIENCE_SECONDS)
        count = f"sh -c 'echo x >> {self.folder}/effects'"
        self.daybook_json("agents", "add", "count", "--command", count)
        cron = f"*/{STEP.seconds} * * * * *"
        self.daybook_json("add", "--cron", cron, "Go", "--agent", "count", "--name", "ten")

    def effects(self) -> int:
        try:
            return len((self.folder / "effects").read_text().splitlines())
        except FileNotFoundError:
            return 0

    def until_a_run_succeeds(self) -> None:
        """Wait for the success of a run that is due from now on."""
        now = (SYSTEM_CLOCK.now() + self.shift).isoformat(" ")[:19]

        def has_succeeded(lines: list[str]) -> bool:
            succeeded = [each for each in self.outcomes("ten") if "succeeded" in each]
            return any(each.partition("due ")[2][:19] >= now for each in succeeded)

        self.until(has_succeeded, within=PATIENCE_SECONDS)

    def until_said(self, line: str) -> None:
        """Wait until `up` says a line that contains ``line``, and forget it."""
        self.until(lambda lines: any(line in each for each in lines), within=PATIENCE_SECONDS)
        self.lines[:] = [each for each in self.lines if line not in each]

    def passes(self, seconds: float) -> None:
        """Let so many seconds pass."""
        try:
            self.until(lambda lines: False, within=seconds)
        except AssertionError as error:
            assert str(error).startswith("not in time"), error

    def problems(self) -> list[str]:
        return sentences.of(self.daybook_json("status")["problems"])

    def check_outcomes(self) -> None:
        """Check that each due time has one outcome, and that no effect happened twice."""
        check_outcomes(self._ledger, self.effects())


def check_outcomes(
    ledger: Path, effects: int, job: str = "ten", step: timedelta = STEP
) -> Counter[str]:
    """Check that each due time of a job has one outcome, and that none had two effects.

    Return the number of its due times by status.
    """
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT due, count, runs.status FROM runs JOIN jobs ON jobs.id = runs.job_id"
            " WHERE jobs.name = ? AND occurrence LIKE 'due:%'",
            (job,),
        ).fetchall()
    due = [datetime.fromisoformat(row[0]) + n * step for row in rows for n in range(row[1])]
    first, count = min(due), round((max(due) - min(due)) / step) + 1
    # The last minute is still open: a due time may not have been claimed yet.
    end = max(due) - timedelta(minutes=1)
    closed = [each for each in due if each < end]
    expected = (first + number * step for number in range(count))
    assert Counter(closed) == Counter(each for each in expected if each < end)
    succeeded = sum(row[1] for row in rows if row[2] == "succeeded")
    undecided = sum(row[1] for row in rows if row[2] in ("unknown", "running", "claimed"))
    assert succeeded <= effects <= succeeded + undecided
    counts = Counter[str]()
    for _, number, status in rows:
        counts[status] += number
    return counts
