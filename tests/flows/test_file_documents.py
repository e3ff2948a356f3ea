"""Settings documents of jobs files at Prefect: a second home is one apply."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daybook.api import agents, file_documents, files, jobs
from daybook.api import secrets as secret_operations
from daybook.errors import ChangedMeanwhile, InvalidFiles, InvalidInput, Mistake, Position
from daybook.files import plan as plans
from daybook.files.jobs_file import FileText
from daybook.keeper import blocks
from daybook.owners import Actor, acting_as
from daybook.resources.store import BlockStore
from tests.world.prefect_world import PrefectWorld

CANARY = "canary-0123456789abcdef"
SIGNING = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
FILE = """\
set: team
agents:
  - name: filed-model
    model: openai:gpt-6-luna
    api_key: "{{secret:filed-key}}"
    tools: [filed-server]
  - {name: filed-program, command: [cat], kind: command}
tool_servers:
  - name: filed-server
    url: https://tools.example.org/mcp
    headers: {X-Api-Key: "{{secret:filed-key}}"}
channels:
  - {name: filed-channel, url: "{{secret:filed-channel}}"}
destinations:
  - {name: filed-ops, url: "https://ops.example.org/hook", secret: "{{secret:filed-signing}}"}
hooks:
  - {name: filed-hook, job: filed-brief, secret: "{{secret:filed-signing}}"}
jobs:
  - name: filed-brief
    schedule: {cron: 0 9 * * *, timezone: Etc/UTC}
    prompt: "Sum up {{payload}}."
    agent: filed-model
    notify: {channel: filed-channel}
"""
SECRETS: dict[str, tuple[str, list[str]]] = {
    "filed-key": (CANARY, ["agent:filed-model", "tools.example.org"]),
    "filed-channel": (f"ntfy://{CANARY}", ["channel:filed-channel", "channel:inbox"]),
    "filed-signing": (SIGNING, ["ops.example.org", "hook:filed-hook"]),
}


async def apply(text: str = FILE, **options: Any) -> files.ApplyReport:
    return await files.apply([FileText("team.yaml", text)], **options)


async def add_secrets() -> None:
    for name, (value, hosts) in SECRETS.items():
        await secret_operations.add(name, {"value": value, "hosts": hosts})


def stores() -> list[BlockStore[Any]]:
    return [each for each in blocks.BLOCK_TYPES if each.slug != "daybook-offline-agent"]


async def stored(world: PrefectWorld) -> dict[str, dict[str, Any]]:
    """Return the data of the documents of this test in Prefect, with their secrets."""
    return {
        f"{each.slug}/{document.name}": dict(document.data)
        for each in stores()
        for document in await each.documents(world.client, include_secrets=True)
        if str(document.name).startswith("filed-")
    }


async def clear(world: PrefectWorld) -> None:
    for ref in await stored(world):
        slug, _, name = ref.partition("/")
        await next(each for each in stores() if each.slug == slug).remove(world.client, name)


@pytest.fixture(autouse=True)
async def cleared(world: PrefectWorld) -> AsyncIterator[None]:
    await clear(world)
    yield
    await clear(world)


async def test_a_second_home_is_one_apply(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_secrets()
    dry = await apply(dry_run=True)
    assert {f"{each.action} {each.kind} {each.name}" for each in dry.documents} == {
        "add agent filed-model",
        "add agent filed-program",
        "add tool server filed-server",
        "add channel filed-channel",
        "add destination filed-ops",
        "add hook filed-hook",
    }
    assert set(await stored(world)) == {f"daybook-secret/{name}" for name in SECRETS}
    first = await apply()
    assert (first.documents, [each.job for each in first.changes]) == (
        dry.documents,
        ["filed-brief"],
    )
    again = await apply()
    assert (again.documents, again.unchanged_documents, again.changes) == ([], 6, [])

    text, _ = await files.export()
    assert not any(each in text for each in (CANARY, SIGNING))
    there = await apply(text)
    assert (there.documents, there.changes, there.notes) == ([], [], [])
    before = await stored(world)

    await clear(world)
    await jobs.remove("filed-brief")
    home = tmp_path / "second"
    monkeypatch.setenv("DAYBOOK_HOME", str(home))
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{tmp_path}/second.db")
    with pytest.raises(
        InvalidFiles, match="daybook secrets add filed-key --host agent:filed-model"
    ):
        await apply(text)
    assert (await stored(world), await jobs.list_jobs()) == ({}, [])
    await add_secrets()
    await apply(text)
    after = await stored(world)
    hook = "daybook-hook/filed-hook"
    job = await jobs.show("filed-brief")
    assert after == {**before, hook: {**before[hook], "job": job.id}}
    await jobs.remove("filed-brief")


async def test_an_apply_that_was_killed_in_between_is_completed_by_the_next(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_secrets()
    save, saved = BlockStore.save, list[str]()

    class Killed(BaseException):
        """The process ends here."""

    async def save_two(
        self: BlockStore[Any], client: Any, name: str, *rest: Any, **more: Any
    ) -> None:
        if len(saved) == 2:
            raise Killed
        saved.append(name)
        await save(self, client, name, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(BlockStore, "save", save_two)
        with pytest.raises(Killed):
            await apply()
    assert await jobs.list_jobs() == []
    second = await apply()
    assert (len(second.documents), second.unchanged_documents) == (4, 2)
    assert (await apply()).unchanged_documents == 6
    await jobs.remove("filed-brief")


async def test_mistakes_and_missing_secrets_are_found_before_anything_is_stored(
    world: PrefectWorld,
) -> None:
    dry = await apply(dry_run=True)
    assert sum("does not exist on this machine" in each for each in dry.notes) == 5
    assert len(dry.documents) == 6
    await add_secrets()
    before = await stored(world)
    for old, new, words in (
        (
            "agent: filed-model",
            "agent: filed-modle",
            "team.yaml:22:12: filed-brief: agent: unknown",
        ),
        ("job: filed-brief", "job: filed-bref", 'did you mean "filed-brief"?'),
        ("tools: [filed-server]", "tools: [filed-srver]", "filed-srver"),
        ("filed-channel, url", "inbox, url", "built-in channel"),
    ):
        with pytest.raises(InvalidFiles) as caught:
            await apply(FILE.replace(old, new))
        assert words in str(caught.value)
    assert (await stored(world), await jobs.list_jobs()) == (before, [])


async def test_a_document_that_changes_after_the_plan_is_not_overwritten(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_secrets()
    await apply()
    plan = file_documents.plan

    async def plan_then_edit(*given: Any) -> file_documents.DocumentPlan:
        found = await plan(*given)
        await agents.edit("filed-program", {"command": ["true"]})
        return found

    monkeypatch.setattr(file_documents, "plan", plan_then_edit)
    with pytest.raises(ChangedMeanwhile, match=r'"filed-program" was changed .*\(apply again\)'):
        await apply(FILE.replace("command: [cat]", "command: [cat, -n]"))
    assert (await agents.show("filed-program")).settings["command"][0].endswith("true")
    await jobs.remove("filed-brief")


@pytest.mark.slow
async def test_an_error_after_documents_were_stored_says_so(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_secrets()
    make, made = plans.make, list[plans.Plan]()

    def make_twice(*given: Any, **more: Any) -> plans.Plan:
        made.append(make(*given, **more))
        if len(made) == 2:
            made[-1].mistakes.append(Mistake("team.yaml", Position(1, 1), "a", "name", "is taken"))
        return made[-1]

    monkeypatch.setattr(plans, "make", make_twice)
    with pytest.raises(InvalidFiles) as caught:
        await apply()
    assert "the settings documents are stored; apply again" in str(caught.value)
    assert "nothing was stored" not in str(caught.value)
    assert "daybook-command-agent/filed-program" in await stored(world)


@pytest.mark.slow
async def test_an_unregistered_type_is_found_before_anything_is_stored(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_secrets()
    before, registered_type = await stored(world), BlockStore.registered_type

    async def without_hooks(self: BlockStore[Any], client: Any) -> Any:
        if self.noun == "hook":
            raise InvalidInput("type", *self.unregistered())
        return await registered_type(self, client)

    monkeypatch.setattr(BlockStore, "registered_type", without_hooks)
    with pytest.raises(InvalidFiles, match="is not registered in Prefect"):
        await apply()
    assert (await stored(world), await jobs.list_jobs()) == (before, [])


@pytest.mark.slow
async def test_a_hook_starts_the_operators_job_and_not_that_of_an_agent(
    world: PrefectWorld,
) -> None:
    await add_secrets()
    with acting_as(Actor("agent:hermes")):
        await jobs.add({"name": "filed-brief", "schedule": "every 1d", "prompt": "Hi"})
    hook = FILE[FILE.index("hooks") : FILE.index("jobs:")]
    with pytest.raises(InvalidFiles, match='unknown job "filed-brief"'):
        await apply(hook, set_name="team")
    await apply()
    [own] = [each for each in await jobs.list_jobs() if each.owner == "file:team"]
    assert (await stored(world))["daybook-hook/filed-hook"]["job"] == own.id
    for each in await jobs.list_jobs():
        await jobs.remove(each.id)


@pytest.mark.slow
async def test_agents_of_two_kinds_with_one_name_stay(world: PrefectWorld) -> None:
    program = "agents:\n  - {name: filed-both, command: [cat], kind: command}\n"
    model = "agents:\n  - {name: filed-both, model: 'test:x', kind: model, base_url: 'http://a.example'}\n"
    await apply(program, set_name="team")
    both = program + model.partition("\n")[2]
    await apply(both, set_name="team")
    refs = {"daybook-command-agent/filed-both", "daybook-model-agent/filed-both"}
    assert set(await stored(world)) == refs
    assert (await apply(model, set_name="team")).documents == []
    text, _ = await files.export()
    assert text.count("name: filed-both") == 2
    assert (await apply(text)).documents == []
    assert set(await stored(world)) == refs


@pytest.mark.slow
async def test_an_agent_that_a_job_names_with_its_kind_is_not_replaced(world: PrefectWorld) -> None:
    program = "agents:\n  - {name: filed-both, command: [cat], kind: command}\n"
    offline = "agents:\n  - {name: filed-both, kind: offline}\n"
    await apply(program, set_name="team")
    ref = "daybook-command-agent/filed-both"
    job = await jobs.add({"name": "a", "schedule": "every 1d", "prompt": "Hi", "agent": ref})
    with pytest.raises(InvalidFiles, match='filed-both" is used by a'):
        await apply(offline, set_name="team")
    assert "daybook-command-agent/filed-both" in await stored(world)
    await jobs.edit_job(job.id, {"agent": "filed-both"})
    job_of_it = "jobs:\n  - {name: b, every: 1d, prompt: Hi, agent: filed-both}\n"
    await apply(offline + job_of_it, set_name="team")
    assert await stored(world) == {}  # `stored` lists no offline agents
    for each in ("a", "b"):
        await jobs.remove(each)
    await agents.remove("filed-both")


BOTS = """\
set: team
telegram_bots:
  - {name: filed-bot, token: "{{secret:filed-bot}}"}
"""


@pytest.mark.skipif(
    "telegram_bots" not in file_documents.sections(), reason="the feature was removed"
)
@pytest.mark.slow
async def test_an_account_of_a_file_is_checked_as_one_that_is_connected(
    world: PrefectWorld,
) -> None:
    await add_secrets()
    hosts = [
        f"telegram-bot:{name}" for name in ("filed-bot", "filed-two", "filed-channel", "inbox")
    ]
    await secret_operations.add("filed-bot", {"value": "123:AAE", "hosts": hosts})
    await apply(FILE[: FILE.index("destinations")])
    await apply(BOTS)
    before = await stored(world)
    for name, words in (
        ("filed-two", 'is that of the channel "filed-bot"'),
        ("filed-channel", "is another channel"),
        ("inbox", "is a built-in channel"),
    ):
        with pytest.raises(InvalidFiles, match=words):
            await apply(BOTS.replace("name: filed-bot", f"name: {name}"))
    assert await stored(world) == before


async def test_an_agent_applies_and_exports_no_settings(world: PrefectWorld) -> None:
    await add_secrets()
    await apply()
    with acting_as(Actor("agent:hermes")):
        with pytest.raises(InvalidInput, match="an agent cannot call this operation"):
            await apply()
        text, document = await files.export()
    assert ("filed-model" in text, "agents" in document) == (False, False)
    await jobs.remove("filed-brief")


@pytest.mark.slow
async def test_prune_removes_no_document_and_says_so(world: PrefectWorld) -> None:
    await add_secrets()
    await apply()
    shorter = FILE[: FILE.index("  - {name: filed-program")] + FILE[FILE.index("tool_servers") :]
    report = await apply(shorter, prune=True)
    assert any("--prune removes no settings documents" in each for each in report.notes)
    assert (await agents.show("filed-program")).kind == "command"
    await jobs.remove("filed-brief")
