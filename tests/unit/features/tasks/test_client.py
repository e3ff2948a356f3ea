"""`Client.tasks`: the operations of `daybook task` for programs."""

from __future__ import annotations

import inspect

import pytest

import daybook
from daybook.api.client_methods import ClientMethod
from daybook.errors import InvalidInput, NotFound, TokenRefused
from daybook.features.tasks import client as task_client
from daybook.features.tasks import operations, scheduler_operations
from daybook.home import Home
from tests import rows

pytestmark = pytest.mark.anyio

ASYNC = (task_client.Tasks, task_client.TaskSessions, task_client.TaskScheduler)
SYNC = (
    task_client.SyncTasks,
    task_client.SyncTaskSessions,
    task_client.SyncTaskScheduler,
)


def public(of: type) -> dict[str, object]:
    return {name: getattr(of, name) for name in dir(of) if not name.startswith("_")}


async def test_a_program_queues_claims_and_finishes_a_task(daybook_home: Home) -> None:
    client = daybook.Client()
    await client.tasks.sessions.register("alpha", capabilities=["python"])
    added = await client.tasks.add("Review", priority="high", capabilities=["python"])
    assert (added.status, added.run.queued_seconds is not None) == ("queued", True)
    claimed = await client.tasks.next("alpha", lease="10m")
    assert (claimed.run_id, claimed.task.title) == (added.run_id, "Review")
    assert claimed.token not in repr(claimed)
    renewed = await client.tasks.heartbeat(claimed.run_id, claimed.token, "1h")
    assert renewed.lease_until and renewed.lease_until > claimed.lease_until
    done = await client.tasks.complete(claimed.run_id, claimed.token, "fine")
    assert (done.title, done.status, done.output) == ("Review", "completed", "fine")
    with pytest.raises(TokenRefused):
        await client.tasks.heartbeat(claimed.run_id, claimed.token)
    shown = await client.tasks.get("Review")
    assert [each.event for each in shown.history] == ["added", "claimed", "completed"]
    assert (await client.tasks.scheduler.status()).tasks.free == 1


def test_the_synchronous_client_has_the_same_task_operations(daybook_home: Home) -> None:
    client = daybook.SyncClient()
    client.tasks.add("Review")
    assert [each.title for each in client.tasks.list("queued")] == ["Review"]
    assert client.tasks.sessions.list() == []
    assert client.tasks.scheduler.pause("release").reason == "release"
    with pytest.raises(NotFound):
        client.tasks.next("nobody")


async def test_a_client_of_an_agent_can_only_use_its_own_task_sessions(daybook_home: Home) -> None:
    operator, agent = daybook.Client(), daybook.Client(agent="eva")
    await operator.tasks.sessions.register("alpha")
    made = await agent.tasks.sessions.register("evas")
    assert (made.owner, made.agent) == ("agent:eva", "eva")
    assert [each.name for each in await agent.tasks.sessions.list()] == ["evas"]
    with pytest.raises(NotFound):
        await agent.tasks.next("alpha")
    refused = (
        agent.tasks.add("Delete everything"),
        agent.tasks.list(),
        agent.tasks.cancel("x"),
        agent.tasks.scheduler.pause(),
    )
    for call in refused:
        with pytest.raises(InvalidInput, match="use a client without an agent"):
            await call
    with daybook.context(agent="eva"), pytest.raises(InvalidInput, match="without an agent"):
        await operator.tasks.add("Delete everything")
    assert await operator.tasks.list() == []


def test_the_task_client_has_a_method_for_each_command() -> None:
    names = [set(public(each)) for each in ASYNC]
    of_task = {"add", "list", "get", "pause", "resume", "retry", "recover", "cancel"}
    of_run = {"next", "wait", "heartbeat", "complete", "fail", "release"}
    assert names[0] == of_task | of_run
    assert names[1] == {"register", "report", "list", "get", "remove"}
    assert names[2] == {"status", "pause", "resume", "drain", "backlog", "cycle", "rebuild"}
    assert [set(public(each)) for each in SYNC] == names


@pytest.mark.parametrize("name", ["add", "heartbeat"])
def test_a_client_method_has_the_signature_and_docstring_of_its_operation(
    daybook_home: Home, name: str
) -> None:
    operation = getattr(operations, name)
    for client in (daybook.Client().tasks, daybook.SyncClient().tasks):
        method = getattr(client, name)
        assert inspect.signature(method) == inspect.signature(operation)
        assert method.__doc__ == operation.__doc__
    assert task_client.TaskScheduler.drain.__doc__ == scheduler_operations.drain.__doc__


async def test_each_operation_refuses_a_list_where_it_needs_texts(daybook_home: Home) -> None:
    client = daybook.Client()
    groups = [client, client.tasks, client.tasks.sessions, client.tasks.scheduler]
    groups += [client.sessions, client.hooks]
    calls = [
        (f"{type(group).__name__}.{name}", getattr(group, name), first)
        for group in groups
        for name, method in public(type(group)).items()
        if isinstance(method, ClientMethod)
        for first in [*inspect.signature(method).parameters.values()][1:2]
        if first.annotation == "str" and first.kind is not first.KEYWORD_ONLY
    ]
    assert {"Client.get", "Client.export", "Client.diff", "Tasks.get"} <= {n for n, *_ in calls}
    for (_, method, first), trying in rows.each(calls):
        _, *others = inspect.signature(method).parameters.values()
        needed = [each for each in others if each.default is each.empty]
        given = ["x" for each in needed if each.kind is each.POSITIONAL_OR_KEYWORD]
        named = {each.name: "x" for each in needed if each.kind is each.KEYWORD_ONLY}
        with trying, pytest.raises(InvalidInput, match=rf"^{first.name}: .* is not a text"):
            await method(["a name"], *given, **named)
