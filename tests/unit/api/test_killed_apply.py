"""`kill -9` of `daybook apply`: each job is as before or as after, and a repetition ends it."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from daybook.api import files, jobs
from daybook.files.documents import read, to_yaml
from daybook.files.jobs_file import FileText
from daybook.home import Home
from tests.costs import examples
from tests.databases import Database
from tests.servers import NOWHERE
from tests.unit.api.killed import killed_apply

SEED = 20261126

FIRST: list[dict[str, Any]] = [
    {"name": "brief", "prompt": "Sum up.", "schedule": {"every": "1h"}},
    {"name": "check", "prompt": "{{output:brief}}", "schedule": {"after": "brief"}},
    {"name": "old", "prompt": "Hello.", "schedule": {"cron": "0 9 * * *", "timezone": "UTC"}},
    {"name": "gone", "prompt": "Hello.", "schedule": {"on_demand": True}},
]
SECOND: list[dict[str, Any]] = [
    {"name": "brief", "prompt": "Sum it up.", "schedule": {"every": "2h"}},
    {"name": "check", "prompt": "{{output:brief}}", "schedule": {"after": "brief"}},
    {"name": "new", "renamed_from": "old", "prompt": "Hello.", "schedule": {"every": "3h"}},
    {"name": "added-job", "prompt": "Hello.", "schedule": {"on_demand": True}},
]


@pytest.fixture(autouse=True)
def variables(
    daybook_home: Home, database: Database, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Return the environment of a process with this ledger; Prefect is unreachable."""
    found = {
        "DAYBOOK_HOME": str(daybook_home.path),
        "DAYBOOK_LEDGER_URL": database.address,
        "DAYBOOK_TIMEZONE": "Etc/UTC",
        "PREFECT_API_URL": NOWHERE,
    }
    for name in ("DAYBOOK_LEDGER_URL", "DAYBOOK_TIMEZONE"):
        monkeypatch.setenv(name, found[name])
    return found


async def apply(given: list[dict[str, Any]]) -> files.ApplyReport:
    source = FileText("x.yaml", to_yaml({"jobs": given}))
    return await files.apply([source], set_name="team", prune=True)


async def state() -> dict[str, Any]:
    """Return the jobs as an export has them, by name."""
    text, _ = await files.export()
    return {each["name"]: each for each in read(text).data["jobs"]}


@pytest.mark.slow
@pytest.mark.dialect
async def test_a_killed_apply_leaves_the_old_jobs_or_the_new_ones(
    variables: dict[str, str], tmp_path: Path
) -> None:
    path, counted = tmp_path / "team.yaml", tmp_path / "moments"
    path.write_text(to_yaml({"jobs": SECOND}))
    await apply(FIRST)
    before = await state()
    assert killed_apply(variables, path, counted) == 0
    after, count = await state(), int(counted.read_text())
    assert set(before) == {"brief", "check", "old", "gone"}
    assert set(after) == {"brief", "check", "new", "added-job"}

    chosen = random.Random(SEED).sample(range(1, count), examples(3))
    seen = set()
    for moment in [*sorted(chosen), count]:
        await apply(FIRST)
        assert await state() == before

        assert killed_apply(variables, path, counted, moment) == -signal.SIGKILL

        found = await state()
        assert found in (before, after), f"killed at moment {moment} of {count}"
        seen.add("before" if found == before else "after")
        if found == after:
            assert [job.sync for job in await jobs.list_jobs() if job.name == "new"] == ["pending"]
        await apply(SECOND)
        assert await state() == after
    assert seen == {"before", "after"}
