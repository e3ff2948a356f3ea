"""An agent sees and changes only its own jobs and runs; others are reported as not found.

The tests have no Prefect: an allowed change of a job is stored all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from prefect.client.orchestration import PrefectClient

from daybook.api import (
    authorization,
    backfill,
    due,
    files,
    jobs,
    preflight,
    preview,
    runs,
    sessions,
    skips,
)
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.features.imports import operations as import_operations
from daybook.home import Home
from daybook.jobs import store as stored_jobs
from daybook.jobs.model import new_job
from daybook.jobs.notify import Notify
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import RunRow
from daybook.owners import Actor, acting_as
from daybook.runs import claims
from daybook.runs import outcomes as stored_outcomes
from tests import rows
from tests.costs import one_in

pytestmark = pytest.mark.anyio

RESEARCHER = Actor("agent:researcher", user_id="ann", via="mcp")
LIMITS = '{"jobs": 3, "min_interval": "10m", "for": {"chief": {"all_jobs": true, "jobs": 1}}}'


@dataclass(frozen=True)
class There:
    """The ids of four jobs and of their runs.

    The researcher, the operator and another agent have a job with a waiting run each, and the
    other agent has a removed job.
    """

    ids: dict[str, str]
    runs: dict[str, str]


@pytest.fixture
async def there(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> There:
    monkeypatch.setenv("DAYBOOK_LIMITS", LIMITS)
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
            archived = await stored_jobs.find(session, "gone")
            await stored_outcomes.archive_job(session, archived, SYSTEM_CLOCK.now())
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
async def test_jobs_and_runs_of_another_owner_are_not_found_by_any_verb(
    there: There, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Check names, ids, prefixes and run ids: the error equals that of an unknown reference."""
    refs = [name for name in there.ids if name != "mine"]
    refs += [there.ids[name] for name in refs] + [there.ids["ops"][:12], there.runs["ops"]]
    refs += [there.runs["other"], there.runs["other"][:12], "flow of ops"]
    for ref in refs:
        caplog.clear()
        with acting_as(RESEARCHER), pytest.raises(NotFound) as found:
            await VERBS[verb](ref)
        message = str(found.value)
        with acting_as(RESEARCHER), pytest.raises(NotFound) as missing:
            await VERBS[verb]("nowhere")
        assert message.replace(ref, "*") == str(missing.value).replace("nowhere", "*")
        first = caplog.records[0]
        assert (first.levelno, vars(first)["action"]) == (logging.WARNING, "limit_refused")
        assert vars(first)["owner"] == "agent:researcher"


async def test_an_unknown_job_is_compared_with_the_jobs_that_the_actor_may_see(
    there: There,
) -> None:
    for verb in ("show", "edit", "run", "cancel", "logged"):
        with pytest.raises(NotFound, match=r'not found \(did you mean "other"\?\)$'):
            await VERBS[verb]("otherr")
        with acting_as(RESEARCHER), pytest.raises(NotFound, match=r'"otherr" not found$'):
            await VERBS[verb]("otherr")
        with acting_as(RESEARCHER), pytest.raises(NotFound, match='did you mean "mine"'):
            await VERBS[verb]("mien")
    with pytest.raises(NotFound, match=r'"goen" not found$'):  # that job was removed
        await VERBS["show"]("goen")


async def test_a_logged_refusal_is_one_line_of_limited_length(
    there: There, caplog: pytest.LogCaptureFixture
) -> None:
    forged = "x\nERROR forged " + "y" * 9_000
    with acting_as(RESEARCHER), pytest.raises(NotFound):
        await jobs.show(forged)
    with pytest.raises(InvalidInput), authorization.log_refusals("agent:researcher", "mine"):
        raise InvalidInput("model", forged)
    records = [each for each in caplog.records if "action" in vars(each)]
    assert [vars(each)["action"] for each in records] == ["limit_refused"] * 2
    for text in [*(each.getMessage() for each in records), vars(records[0])["job"]]:
        assert "\n" not in text
        assert len(text) < 3_000


async def test_the_host_limits_of_an_agent_apply_when_a_job_is_stored(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check the limits with the recipients of a job: the operator has no host limit."""
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"hosts": ["*.example.org"]}')
    client = cast(PrefectClient, None)  # the client is not used
    notify = Notify(on_fail="https://evil.net/x")
    with pytest.raises(InvalidInput, match=r"on_fail: .*limits do not list this host"):
        await preflight.check_notify(client, notify, "agent:researcher")
    await preflight.check_notify(client, notify, "user")
    await preflight.check_notify(
        client, Notify(on_fail="https://a.example.org/x"), "agent:researcher"
    )


async def test_a_channel_that_cannot_carry_files_is_refused_when_a_job_is_stored(
    there: There,
) -> None:
    client = cast(PrefectClient, None)  # a built-in channel needs no client
    await preflight.check_notify(client, Notify(channel="inbox"), "user")
    with pytest.raises(InvalidInput) as refused:
        await preflight.check_notify(client, Notify(channel="inbox", attach_files=True), "user")
    assert refused.value.field == "attach_files"


@pytest.mark.floor("A", "An agent sees only jobs of its own")
async def test_lists_of_an_agent_contain_only_its_own_jobs_and_runs(there: There) -> None:
    with acting_as(RESEARCHER):
        assert [each.name for each in await jobs.list_jobs()] == ["mine"]
        assert [each.id for each in await runs.history()] == [there.runs["mine"]]
        assert (await jobs.show("mine")).owner == "agent:researcher"
        assert (await runs.find_logged("mine")).id == there.runs["mine"]
        assert (await runs.show(there.runs["mine"])).job == "mine"
    with acting_as(Actor("agent:mcp", via="mcp")):  # the other two come first by name
        assert [each.name for each in await jobs.list_jobs(limit=1)] == ["other"]
    assert len(await jobs.list_jobs()) == 3
    assert len(await runs.history()) == 4


async def test_an_empty_or_wildcard_reference_finds_no_job(there: There) -> None:
    """Check an empty prefix, which would fit every id, and the wildcards of SQL."""
    with acting_as(RESEARCHER):
        for ref in ("", "%", "_" * 32):
            with pytest.raises(NotFound):
                await jobs.show(ref)
    try:
        await jobs.show("")
    except (NotFound, Ambiguous) as error:
        assert isinstance(error, NotFound)


async def test_an_agent_with_all_jobs_sees_every_job_but_keeps_its_limits(there: There) -> None:
    with acting_as(Actor("agent:chief", via="mcp")):
        assert len(await jobs.list_jobs()) == 3
        assert (await runs.show(there.runs["ops"])).job == "ops"
        assert not (await jobs.pause("ops")).enabled
        # It is still an agent: its limits apply to its changes.
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
    record = vars(caplog.records[0])
    assert (record["action"], record["owner"]) == ("limit_refused", "agent:researcher")
    assert record["field"] == field
    # The operator gets the same error for an agent's job, but not for a job of the operator.
    if field != "tool":
        with pytest.raises(InvalidInput):
            await jobs.edit_job("mine", _only(BEYOND[field]))
        assert (await jobs.edit_job("ops", _only(BEYOND[field]))).sync == "pending"


def _only(fields: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "tool-call", **fields} if "tool" in fields else fields


async def test_an_agent_enables_its_job_only_if_the_operator_did_not_disable_it(
    there: There,
) -> None:
    with acting_as(RESEARCHER):
        await jobs.pause("mine", "my own pause")
        assert (await jobs.resume("mine")).enabled
    await jobs.pause("mine")
    await jobs.edit_job("mine", {"prompt": "y"})
    with acting_as(RESEARCHER):
        await jobs.edit_job("mine", {"prompt": "z"})
        await jobs.pause("mine", "my own note")  # the operator still has disabled it
        with pytest.raises(InvalidInput, match="the operator disabled this job") as refused:
            await jobs.resume("mine")
    assert refused.value.field == "enabled"
    assert not (await jobs.show("mine")).enabled
    assert (await jobs.resume("mine")).enabled


@pytest.mark.parametrize("note", ["it costs too much", ""])
async def test_an_agent_enables_a_job_that_daybook_disabled_unless_the_operator_paused_it_again(
    there: There, note: str
) -> None:
    async def disable_by_rule() -> None:
        async with open_ledger() as ledger, ledger.write() as session:
            found = await stored_jobs.find(session, "mine")
            disabled = found.job.model_copy(update={"enabled": False})
            why = "disabled after 10 failures in a row"
            await stored_jobs.change(session, found, disabled, ledger.now(), disabled_reason=why)

    await disable_by_rule()
    with acting_as(RESEARCHER):
        assert (await jobs.resume("mine")).enabled
    await disable_by_rule()
    await jobs.pause("mine", note)
    with acting_as(RESEARCHER), pytest.raises(InvalidInput, match="the operator disabled"):
        await jobs.resume("mine")


async def test_an_agent_cannot_enable_a_job_that_it_paused_and_the_operator_paused_again(
    there: There,
) -> None:
    with acting_as(RESEARCHER):
        await jobs.pause("mine", "nothing to do")
    await jobs.pause("mine")
    again = await jobs.pause("mine")
    assert again.disabled_reason == "paused: nothing to do"
    with acting_as(RESEARCHER), pytest.raises(InvalidInput, match="the operator disabled"):
        await jobs.resume("mine")


async def test_an_agent_cannot_exceed_its_maximum_number_of_jobs(there: There) -> None:
    """Check that disabled jobs count towards the maximum of three, and removed jobs do not."""
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
    with acting_as(RESEARCHER):
        assert (await jobs.add(fields)).sync == "pending"


async def test_an_agent_cannot_start_a_backfill(there: There) -> None:
    """Check the refusal: a backfill requests many runs at once, whatever the agent's interval."""
    with (
        acting_as(RESEARCHER),
        pytest.raises(InvalidInput, match="backfill: is for the operator only"),
    ):
        await backfill.run("mine", "2026-01-01", "2026-01-02")


OPERATOR_ONLY: dict[str, Callable[[], Awaitable[Any]]] = {
    "apply": lambda: files.apply([]),
    "import": lambda: import_operations.run("anna", "jobs.json"),
    "list sessions": sessions.list_sessions,
    "show session": lambda: sessions.show("default:x"),
    "send to session": lambda: sessions.send("default:x", "Hello"),
}


async def test_operations_of_the_operator_refuse_an_agent_with_the_same_error(
    daybook_home: Home,
) -> None:
    refused = "agent: an agent cannot call this operation"
    for call, trying in rows.each(OPERATOR_ONLY.values()):
        with trying, acting_as(RESEARCHER), pytest.raises(InvalidInput, match=refused):
            await call()


async def test_logs_are_read_with_the_rights_of_the_caller_that_requested_them(
    there: There,
) -> None:
    with acting_as(RESEARCHER):
        lines = runs.logs("ops")
    with pytest.raises(NotFound):
        await anext(lines)
