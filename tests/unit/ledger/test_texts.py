"""Text and JSON that one of the databases cannot store is sanitized, whatever its source."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger import texts
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims, history, slots, waiting_runs
from daybook.runs.claim_requests import flow_key
from daybook.runs.prefect_ends import EndInPrefect, apply_end
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

BAD = "a\x00b\ud83dc"
GOOD = "a\ufffdb\ufffdc"
WHOLE = "an emoji, 😀, and a backslash before: \\u0000 \\ud83d"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BAD, GOOD),
        (WHOLE, WHOLE),
        ({BAD: [BAD, {"x": (BAD, 1)}]}, {GOOD: [GOOD, {"x": [GOOD, 1]}]}),
        (
            [math.nan, math.inf, -math.inf, 1.5, 2**70, True, None],
            [None] * 3 + [1.5, 2**70, True, None],
        ),
    ],
)
def test_json_is_sanitized_for_every_database(value: Any, expected: Any) -> None:
    assert json.loads(texts.to_json(value)) == expected
    assert texts.sanitize(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        r'{"a": [1, 1.5, -0, -0.0, true, null, "\ud83d\ude00"], "b": {}, "a": 1e400}',
        r'["half of a pair: \ud83d", NaN]',
        str(2**70 + 1),
        "[" * 300 + "]" * 300,
    ],
)
def test_json_is_read_like_the_standard_library_reads_it(text: str) -> None:
    assert repr(texts.from_json(text)) == repr(json.loads(text))


async def test_an_outcome_with_text_that_a_database_refuses_is_stored(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    outcome = Outcome(
        Status.SUCCEEDED,
        reason=BAD,
        output=BAD + WHOLE,
        result={"is": [BAD, math.nan]},
        error=BAD + "!",
        model=BAD,
        prompt=BAD,
        usage={BAD: math.inf},
    )
    for _ in range(2):  # the answer to the first commit was lost
        await claims.finish(world.ledger, granted.run_id, granted.fence, outcome)

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.reason, row.model) == ("succeeded", GOOD, GOOD)
    assert (row.output, row.error) == (GOOD + WHOLE, GOOD + "!")
    assert (row.result, row.usage) == ({"is": [GOOD, None]}, {GOOD: None})


async def test_an_end_in_prefect_with_text_that_a_database_refuses_is_stored(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    await world.runs.claimed(claim_request)

    ended = EndInPrefect(str(claim_request.flow_run_id), "CRASHED", BAD, BAD, claim_request)
    assert await apply_end(world.ledger, ended) is Status.WAITING
    (row,) = await world.runs.rows()
    assert row.reason == f"its Prefect run ended as {GOOD}: {GOOD}"


async def test_parameters_that_a_database_refuses_do_not_break_queries_over_all_runs(
    world: World,
) -> None:
    # PostgreSQL reads the JSON of every row to find a class or a deadline.
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(
        stored, occurrence=flow_key("f"), parameters={"prompt": BAD, "n": math.nan}
    )
    await world.runs.claimed(claim_request)
    await claims.request(world.ledger, stored, "1", "manual")

    async with world.ledger.read() as session:
        assert await slots.next_up(session, world.clock.now(), 4, {"light": 1}) == []
        assert await waiting_runs.ids_past_deadline(session, world.clock.now(), 10) == []
    (row, _) = sorted(await world.runs.rows(), key=lambda row: row.status, reverse=False)
    assert row.parameters == {"prompt": GOOD, "n": None}


async def test_a_search_accepts_any_text(world: World) -> None:
    await world.jobs.add()
    async with world.ledger.read() as session:
        for ref in (BAD, "%", "\\", "/", "'", "x" * 10_000):
            with pytest.raises(Exception, match="not found"):
                await store.find(session, ref)
            with pytest.raises(Exception, match="not found"):
                await history.find(session, ref)


async def test_the_longest_names_are_stored_and_a_longer_request_id_is_refused(
    world: World,
) -> None:
    # Different letters of four bytes each, which an index cannot compress.
    letters = "".join(chr(0x1F300 + n) for n in range(200))
    stored = await world.jobs.add(letters[:100])
    row = await claims.request(world.ledger, stored, letters, "manual")
    assert (await claims.request(world.ledger, stored, letters, "manual")).id == row.id

    with pytest.raises(InvalidInput, match="201 characters"):
        await claims.request(world.ledger, stored, letters + "!", "manual")
    assert len(await world.runs.rows()) == 1


async def test_the_longest_session_id_is_stored(world: World) -> None:
    letters = "".join(chr(0x1F300 + n) for n in range(100))
    stored = await world.jobs.add(prompt="x", cron="0 * * * *", agent=letters, session_key=letters)
    granted = await world.runs.claimed(stored)
    await claims.begin(world.ledger, granted.run_id, granted.fence)
    await world.runs.finish(granted, Status.SUCCEEDED, output="said", prompt="asked")
    assert granted.session_id == f"{letters}:{letters}"
