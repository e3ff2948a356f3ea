"""The policy of a run: `RunRow.policy`, and the same property of claims and their requests."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import daybook
from daybook.ledger import tables
from daybook.ledger.tables import RunRow
from daybook.policies.policy import Policy, policy_from_parameters
from daybook.runs import rows
from daybook.runs.claim_requests import Granted
from tests.world import World

pytestmark = pytest.mark.anyio

PACKAGE = Path(daybook.__file__).parent


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the parameters of each reading of a row's policy."""
    found: list[Any] = []

    def read(parameters: Any) -> Policy:
        found.append(parameters)
        return policy_from_parameters(parameters)

    monkeypatch.setattr(tables, "policy_from_parameters", read)
    return found


async def _stored(world: World) -> RunRow:
    stored = await world.jobs.add(cron="0 12 * * *", deadline="2h")
    now = world.clock.now()
    row = rows.wait(rows.of_job(stored, "request:x", "manual", now, now), now, "why")
    async with world.ledger.write() as session:
        session.add(row)
    return row


async def test_a_row_reads_its_policy_once_for_each_value(world: World, reads: list[Any]) -> None:
    row = await _stored(world)
    async with world.ledger.write() as session:
        loaded = await session.get_one(RunRow, row.id)
        assert loaded.policy == Policy.model_validate(loaded.parameters["policy"])
        assert loaded.policy is loaded.policy
        assert len(reads) == 1

        loaded.parameters = loaded.parameters | {"policy": {"deadline": "1h"}}
        assert loaded.policy == Policy.model_validate({"deadline": "1h"})
        loaded.status = loaded.status
        assert loaded.policy is loaded.policy
        assert len(reads) == 2

        await session.flush()
        loaded.parameters = {}
        await session.refresh(loaded)
        assert loaded.policy == Policy.model_validate({"deadline": "1h"})
    assert len(reads) == 3


@pytest.mark.parametrize(
    "parameters",
    [{}, {"policy": None}, {"policy": "x"}, {"policy": {"timeout": "soon"}}, {"policy": {"x": 1}}],
)
async def test_an_unreadable_policy_is_the_default(
    world: World, parameters: dict[str, Any]
) -> None:
    row = await _stored(world)
    row.parameters = parameters
    assert row.policy == Policy()


async def test_a_grant_reads_its_own_policy(world: World) -> None:
    granted = await world.runs.claim(await _stored(world))
    assert isinstance(granted, Granted)
    assert granted.policy is granted.policy
    assert granted.policy == Policy.model_validate(granted.parameters["policy"])
    assert replace(granted, parameters={"policy": {"retries": 1}}).policy.retries == 1


def test_no_other_code_reads_the_policy_of_a_run() -> None:
    """Code that has only parameters may read their policy, but not code that has the run."""
    read = re.compile(r"policy_from_parameters\((self\._)?(row|granted|request)\.")
    lines = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text().splitlines()
        if read.search(line)
    ]
    assert lines == []
