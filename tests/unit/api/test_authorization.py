"""An agent sees and changes its own jobs and their runs; of others it is told that there are none.

No Prefect is there: what was found would ask for one, and what is refused does not.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.api import authorization, backfill, due, jobs, preflight, preview, runs, skips
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import Ambiguous, InvalidInput, NotFound, PrefectUnreachable
from daybook.home import Home
from daybook.jobs import store as stored_jobs
from daybook.jobs.model import new_job
from daybook.jobs.notify import Notify
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import RunRow
from daybook.owners import Actor, acting_as
from daybook.runs import claims
from daybook.runs import outcomes as stored_outcomes
from tests.costs import one_in

pytestmark = pytest.mark.anyio

RESEARCHER = Actor("agent:researcher", user_id="ann", via="mcp")
LIMITS = '{"jobs": 3, "min_interval": "10m", "for": {"chief": {"all_jobs": true, "jobs": 1}}}'


@dataclass(frozen=True)
class There:
    """Two jobs, the operator's and another agent's, and one of the researcher's, each with a run
    that waits; and a removed one of the other agent's.
    """

    ids: dict[str, str]
    runs: dict[str, str]


@pytest.fixture
async def there(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[There]:
    monkeypatch.setenv("DAYBOOK_LIMITS", LIMITS)
    # Not the session's server, which an earlier test may have started.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield await _there()


async def _there() -> There:
    owned = {"mine": "agent:researcher", "ops": "user", "other": "agent:mcp", "gone": "agent:mcp"}
    ids, runs_of = {}, {}
    async with open_ledger() as ledger:
        for name, owner in owned.items():
            job = new_job(now=SYSTEM_CLOCK.now(), name=name, prompt="x", every="1h")
            async with ledger.write() as session:
                stored = await stored_jobs.add(session, job, name, SYSTEM_CLOCK.now(), owner)
            ids[name] = stored.id
            row = await claims.request(ledger, stored, "first", "manual")
            async with ledger.write() as session:
                carried = await session.get(RunRow, row.id)
                assert carried is not None
                carried.flow_run_id = f"flow of {name}"
                session.add(carried)
            runs_of[name] = row.id
        async with ledger.write() as session:
            gone = await stored_jobs.find(session, "gone")
            await stored_outcomes.archive_job(session, gone, SYSTEM_CLOCK.now())
    return There(ids, runs_of)


async def _first_log(ref: str) -> Any:
    async for each in runs.logs(ref):
        return each
    return None


VERBS: dict[str, Callable[[str], Awaitable[Any]]] = {
    "show": jobs.show,
    "edit": lambda ref: jobs.edit_job(ref, {"prompt": "y"}),
    "pause": jobs.pause,
    "resume": jobs.resume,
    "remove": jobs.remove,
    "run": runs.run,
    "history": runs.history,
    "cancel": runs.cancel,
    "show run": runs.show,
    "logged": runs.find_logged,
    "logs": _first_log,
    "next": due.of_job,
    "dry run": preview.of_job,
    "skip": skips.skip,
    "snooze": lambda ref: skips.snooze(ref, "in 2h"),
    "backfill": lambda ref: backfill.run(ref, "2026-01-01", "2026-01-02"),
}


@pytest.mark.parametrize("verb", one_in(2, VERBS))
async def test_what_is_anothers_is_not_there(
    there: There, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By name, id, prefix, also a removed one, and by its run's id: told as of one that is not."""
    refs = [name for name in there.ids if name != "mine"]
    refs += [there.ids[name] for name in refs] + [there.ids["ops"][:12], there.runs["ops"]]
    refs += [there.runs["other"], there.runs["other"][:12], "flow of ops"]
    for ref in refs:
        caplog.clear()
        with acting_as(RESEARCHER), pytest.raises(NotFound) as found:
            await VERBS[verb](ref)
        told = str(found.value)
        with acting_as(RESEARCHER), pytest.raises(NotFound) as missing:
            await VERBS[verb]("nowhere")
        assert told.replace(ref, "*") == str(missing.value).replace("nowhere", "*")
        first = caplog.records[0]
        assert (first.levelno, vars(first)["action"]) == (logging.WARNING, "limit_refused")
        assert vars(first)["owner"] == "agent:researcher"


async def test_what_is_logged_is_one_line(there: There, caplog: pytest.LogCaptureFixture) -> None:
    forged = "x\nERROR forged " + "y" * 9_000
    with acting_as(RESEARCHER), pytest.raises(NotFound):
        await jobs.show(forged)
    with pytest.raises(InvalidInput), authorization.log_refusals("agent:researcher", "mine"):
        raise InvalidInput("model", forged)
    records = [each for each in caplog.records if "action" in vars(each)]
    assert [vars(each)["action"] for each in records] == ["limit_refused"] * 2
    for told in [*(each.getMessage() for each in records), vars(records[0])["job"]]:
        assert "\n" not in told
        assert len(told) < 3_000


async def test_the_hosts_of_an_agent_count_when_a_job_is_written(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard that reaches the server of a tool has them, as at the run."""
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"hosts": ["*.example.org"]}')
    client = cast(PrefectClient, None)  # nothing is asked of it
    told = Notify(on_fail="https://evil.net/x")
    with pytest.raises(InvalidInput, match=r"on_fail: .*limits do not list this host"):
        await preflight.check_notify(client, told, "agent:researcher")
    await preflight.check_notify(client, told, "user")
    await preflight.check_notify(
        client, Notify(on_fail="https://a.example.org/x"), "agent:researcher"
    )


async def test_lists_hold_its_own(there: There) -> None:
    with acting_as(RESEARCHER):
        assert [each["name"] for each in await jobs.list_jobs()] == ["mine"]
        assert [each["id"] for each in await runs.history()] == [there.runs["mine"]]
        assert (await jobs.show("mine"))["owner"] == "agent:researcher"
        assert (await runs.find_logged("mine"))["id"] == there.runs["mine"]
        assert (await runs.show(there.runs["mine"]))["job"] == "mine"
    assert len(await jobs.list_jobs()) == 3
    assert len(await runs.history()) == 4


async def test_an_ambiguous_prefix_names_its_own_only(there: There) -> None:
    """Ids differ: every one begins with nothing, which is none; one with `%` is no pattern."""
    with acting_as(RESEARCHER):
        for ref in ("", "%", "_" * 32):
            with pytest.raises(NotFound):
                await jobs.show(ref)
    try:
        await jobs.show("")
    except (NotFound, Ambiguous) as error:
        assert isinstance(error, NotFound)


async def test_one_that_the_operator_lets_see_all_finds_all(there: There) -> None:
    with acting_as(Actor("agent:chief", via="mcp")):
        assert len(await jobs.list_jobs()) == 3
        assert (await runs.show(there.runs["ops"]))["job"] == "ops"
        with pytest.raises(PrefectUnreachable):
            await jobs.pause("ops")
        # It is still an agent: what it changes stays within its own limits.
        with pytest.raises(InvalidInput, match=r"schedule: is due every 1m.*10m or more"):
            await jobs.edit_job("ops", {"every": "1m"})
        with pytest.raises(InvalidInput, match="model"):
            await jobs.edit_job("ops", {"model": "dear"})


BEYOND: dict[str, dict[str, Any]] = {
    "schedule": {"prompt": "x", "every": "9m59s"},
    "agent": {"prompt": "x", "every": "1h", "agent": "writer"},
    "model": {"prompt": "x", "every": "1h", "model": "dear"},
    "tool": {"tool": "search.reindex", "every": "1h"},
    "check": {"prompt": "x", "every": "1h", "policy": {"check": {"command": ["true"]}}},
}


@pytest.mark.parametrize("field", BEYOND)
async def test_a_job_beyond_the_limits_is_not_stored(
    there: There, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    with acting_as(RESEARCHER):
        with pytest.raises(InvalidInput) as refused:
            await jobs.add(BEYOND[field])
        assert refused.value.field == field
        with pytest.raises(InvalidInput) as refused:
            await jobs.edit_job("mine", _only(BEYOND[field]))
        assert refused.value.field == ("kind" if field == "tool" else field)
        assert len(await jobs.list_jobs()) == 1
    told = vars(caplog.records[0])
    assert (told["action"], told["owner"]) == ("limit_refused", "agent:researcher")
    assert told["field"] == field
    # The operator is told the same of an agent's job, and not of his own.
    if field != "tool":
        with pytest.raises(InvalidInput):
            await jobs.edit_job("mine", _only(BEYOND[field]))
        with pytest.raises(PrefectUnreachable):
            await jobs.edit_job("ops", _only(BEYOND[field]))


def _only(fields: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "tool-call", **fields} if "tool" in fields else fields


async def test_so_many_jobs_and_no_more(there: There) -> None:
    """Three at most, those that are off included and removed ones not."""
    async with open_ledger() as ledger:
        for name in ("second", "third"):
            job = new_job(now=SYSTEM_CLOCK.now(), name=name, prompt="x", every="1h", enabled=False)
            async with ledger.write() as session:
                await stored_jobs.add(session, job, name, SYSTEM_CLOCK.now(), "agent:researcher")
    fields = {"prompt": "x", "every": "1h"}
    with (
        acting_as(RESEARCHER),
        pytest.raises(InvalidInput, match="already has its maximum of 3 jobs"),
    ):
        await jobs.add(fields)
    async with open_ledger() as ledger, ledger.write() as session:
        third = await stored_jobs.find(session, "third")
        await stored_outcomes.archive_job(session, third, SYSTEM_CLOCK.now())
    with acting_as(RESEARCHER), pytest.raises(PrefectUnreachable):
        await jobs.add(fields)


async def test_a_backfill_is_the_operators(there: There) -> None:
    """It runs a thousand at once, which no interval between two of them would allow."""
    with (
        acting_as(RESEARCHER),
        pytest.raises(InvalidInput, match="backfill: is for the operator only"),
    ):
        await backfill.run("mine", "2026-01-01", "2026-01-02")


async def test_who_reads_a_log_is_who_asked_for_it(there: There) -> None:
    with acting_as(RESEARCHER):
        lines = runs.logs("ops")
    with pytest.raises(NotFound):
        await anext(lines)
