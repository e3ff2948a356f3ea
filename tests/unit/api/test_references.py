"""References: a name that an agent chose never stands for something else (requirement 34)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from daybook import api
from daybook.errors import Ambiguous, InvalidInput, NotFound, TokenRefused
from daybook.feature import features
from daybook.features.approvals import operations as approving
from daybook.features.memory import tables as notebooks
from daybook.features.tasks import operations as tasks
from daybook.features.tasks import tables
from daybook.jobs import store
from daybook.ledger import references
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow
from daybook.names import Id
from tests.unit.features.approvals.test_operations import asked
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger", "daybook_home")]

PARAMETERS = ("ref", "refs", "job", "run")
"""Names of the parameters that are references."""
ARGUMENTS: dict[str, Any] = {
    "text": "x",
    "approve": True,
    "changes": {"every": "3h"},
    "due_times": 1,
    "end": "2026-12-01",
    "error": "no",
    "name": "hook",
    "path": "a.txt",
    "prefer": "ledger",
    "prompt": "Hello",
    "runs": 1,
    "start": "2026-11-01",
    "token": "x",
    "until": "2h",
}
"""Valid values of the other required parameters."""
NOT_REFERENCES = {"destinations.test", "job_templates.add", "job_templates.prepare"}
"""Operations whose parameter of such a name is a name or a URL only."""


@dataclass(frozen=True)
class Operation:
    name: str
    call: Callable[[str], Awaitable[Any]]


def operations_with_a_reference() -> Iterator[Operation]:
    """Return each operation of `daybook.api` and of features that takes a reference."""
    modules = {
        each.name: import_module(f"daybook.api.{each.name}") for each in iter_modules(api.__path__)
    }
    modules |= {
        f"{of_feature.name}.{each.name}".removesuffix(".operations"): import_module(
            f"{of_feature.package}.{each.name}"
        )
        for of_feature in features()
        for each in iter_modules([str(of_feature.folder)])
        if each.name.endswith("operations")
    }
    for noun, loaded in modules.items():
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            parameters = inspect.signature(function).parameters
            given = next((each for each in PARAMETERS if each in parameters), None)
            is_public = function.__module__ == loaded.__name__ and not name.startswith("_")
            needs_ledger = {"session", "ledger", "client"} & parameters.keys()
            label = f"{noun}.{name}"
            if not given or not is_public or needs_ledger or label in NOT_REFERENCES:
                continue
            if parameters[given].annotation not in ("str", "str | None", "Sequence[str]"):
                continue
            others = {
                each.name: ARGUMENTS[each.name]
                for each in parameters.values()
                if each.name == "prefer" or (each.default is each.empty and each.name != given)
            }
            yield Operation(label, _caller(function, given, others))


def _caller(
    function: Callable[..., Any], parameter: str, others: dict[str, Any]
) -> Callable[[str], Awaitable[Any]]:
    async def call(ref: str) -> Any:
        given = {parameter: [ref] if parameter == "refs" else ref, **others}
        result = function(**given)
        return await result if inspect.isawaitable(result) else [each async for each in result]

    return call


async def decoy(world: World, name: str, owner: str = "agent:eve") -> str:
    """Add a job whose name is older than the rules for names. Its run waits for an approval."""
    run_id = await asked(world, f"x{name}", owner)
    job_id = str((await world.runs.row(run_id)).job_id)
    async with world.ledger.write() as session:
        named = update(JobRow).where(col(JobRow.id) == job_id).values(name=name)
        await session.execute(named)
    return job_id


async def test_no_operation_acts_on_a_job_of_an_agent_that_is_named_like_an_id(
    world: World,
) -> None:
    run_id = await asked(world)
    task_run = await world.tasks.add()
    with_token = await api.tokens.add("agent:ann")
    short = [run_id[:12], f"{run_id[:12]}.1", str((await world.runs.row(run_id)).job_id)[:12]]
    short += [task_run.id[:12], task_run.task_id[:12], with_token.id[:12]]
    targets = {run_id, task_run.id, task_run.task_id, with_token.id}
    decoys = [await decoy(world, name) for name in short]
    before = world.database.query("SELECT * FROM jobs"), world.database.query("SELECT * FROM runs")

    refused = dict[str, int]()
    # The token is one of the targets, so remove it last.
    for operation in sorted(
        operations_with_a_reference(), key=lambda each: each.name == "tokens.remove"
    ):
        for ref in short:
            try:
                found = await operation.call(ref)
            except (InvalidInput, NotFound, TokenRefused) as error:
                refused.setdefault(operation.name, 0)
                refused[operation.name] += isinstance(error, Ambiguous)
            else:  # an operation that knows no names
                found = getattr(found, "run", found)
                ids = {getattr(found, each, "") for each in ("id", "run_id", "task_id")}
                assert ids & targets, (operation.name, ref)
    after = world.database.query("SELECT * FROM jobs"), world.database.query("SELECT * FROM runs")
    assert after == before
    of_jobs = [name for name, count in refused.items() if count == len(short)]
    assert {"jobs.pause", "runs.cancel", "approvals.decide", "transcripts.read"} <= {*of_jobs}
    assert len(decoys) == len(short) < len(of_jobs)


async def test_a_whole_id_stands_for_its_object_and_for_no_name(world: World) -> None:
    run_id = await asked(world)
    job_id = str((await world.runs.row(run_id)).job_id)
    for name in (run_id, f"{run_id}.1", job_id, "f" * 32):
        await decoy(world, name)
    assert (await api.jobs.show(job_id)).name == "brief"
    assert (await api.jobs.show_job_or_run(run_id)).id == run_id
    with pytest.raises(NotFound):
        await api.jobs.show("f" * 32)
    assert (await approving.decide(f"{run_id}.1", approve=True)).id == run_id
    with pytest.raises(NotFound):
        await api.jobs.show(Id("brief"))


async def test_an_ambiguous_reference_names_each_candidate(world: World) -> None:
    run_id = await asked(world)
    decoy_id = await decoy(world, f"{run_id[:12]}.1")
    with pytest.raises(Ambiguous) as ambiguous:
        await approving.decide(f"{run_id[:12]}.1", approve=True)
    hint = str(ambiguous.value)
    assert f"run {run_id}.1 (brief, of user)" in hint
    assert f"job {decoy_id} ({run_id[:12]}.1, of agent:eve)" in hint


async def test_a_short_id_that_is_the_name_of_a_users_job_is_ambiguous(world: World) -> None:
    mine = await world.jobs.add("nightly")
    named = await decoy(world, mine.id[:8], owner="user")
    with pytest.raises(Ambiguous):
        await api.jobs.pause(mine.id[:8])
    assert (await api.jobs.show(mine.id[:9])).id == mine.id
    assert (await api.jobs.show(named)).name == mine.id[:8]


async def test_three_digits_are_a_name_and_not_an_id(world: World) -> None:
    mine = await world.jobs.add("nightly")
    named = await world.jobs.add(mine.id[:3], owner="agent:eve")
    assert (await api.jobs.show(mine.id[:3])).id == named.id
    assert (await api.jobs.show(mine.id[:4].upper())).id == mine.id


async def test_a_removed_job_of_a_user_is_not_replaced_by_an_agents_job(world: World) -> None:
    """The name of a live job of the user stays his, whatever agents add or remove."""
    mine = await world.jobs.add("nightly")
    async with world.ledger.read() as session:

        async def found(*, archived: bool) -> str:
            return (await store.find(session, "nightly", archived=archived)).id

        theirs = await world.jobs.add("nightly", owner="agent:eve")
        assert await found(archived=True) == await found(archived=False) == mine.id
    await world.jobs.archive(mine)
    with pytest.raises(Ambiguous, match="removed"):
        await api.jobs.show("nightly")
    await world.jobs.archive(theirs)
    assert (await api.jobs.show("nightly")).id == mine.id


async def test_a_session_key_of_a_user_is_not_the_name_of_an_agents_job(world: World) -> None:
    mine = await world.jobs.add("nightly", every="1h", session_key="notes")
    theirs = await world.jobs.add("notes", owner="agent:eve", every="1h")
    for each in (mine, theirs):
        granted = await world.runs.running(world.runs.claim_request(each))
        await world.runs.finish(granted, Status.SUCCEEDED, output="done", prompt="Hi")
    with pytest.raises(Ambiguous, match="default:notes"):
        await api.sessions.show("notes")
    assert (await api.sessions.show("default:notes")).id == "default:notes"


@pytest.mark.parametrize("name", ["cafe", "DEADBEEF", "aa62b2eabbcc.1", "a" * 32, "2026"])
async def test_a_new_name_has_not_the_form_of_an_id(world: World, name: str) -> None:
    given = {"prompt": "Hello", "every": "1h"}
    for refused in (
        api.jobs.add({**given, "name": name}),
        api.tokens.add("agent:ann", name),
        tasks.add(name),
    ):
        with pytest.raises(InvalidInput, match=f'"{name}" has the form of an id'):
            await refused
    stored = await decoy(world, name, owner="user")
    other = await world.jobs.add("other")
    edited = await api.jobs.edit_job(stored, {"name": name, "description": "as before"})
    assert (edited.name, edited.description) == (name, "as before")
    with pytest.raises(InvalidInput, match="has the form of an id"):
        await api.jobs.edit_job(other.id, {"name": name.upper() + "0"[: len(name) < 32]})


async def test_each_kind_of_object_with_an_id_of_digits_is_searched() -> None:
    nouns = {each for each in vars(references).values() if isinstance(each, references.Noun)}
    assert {each for each in nouns if each.has_hex_id} == {*references.NOUNS}
    assert {*references.nouns()} == {*references.NOUNS, *tables.NOUNS, *notebooks.NOUNS}
