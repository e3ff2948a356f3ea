"""Approvals for the operator: who decides, by which name, and where an open one shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import PrefectClient

from daybook import api
from daybook.agents import documents
from daybook.api import preflight
from daybook.api.run_life import show as show_life
from daybook.diagnosis import attention
from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.execution.agent_request import actor_of
from daybook.features.approvals import operations
from daybook.features.approvals.commands import approve_
from daybook.jobs.model import new_job
from daybook.ledger import arguments
from daybook.owners import Actor, acting_as
from daybook.policies.policy import ANSWER
from daybook.runs import claims
from daybook.runs.approvals import Question
from daybook.toolbox import call
from daybook.tools.server_blocks import PrefectServers
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger", "daybook_home")]

MAIL = Question("1.1", "d" * 64, 1, "mail_send", 'to="ann"', timedelta(hours=1))
AGENT = Actor("agent:ann", via="mcp")


async def asked(world: World, name: str = "brief", owner: str = "user") -> str:
    """Return the id of a run that waits for an approval."""
    stored = await world.jobs.add(name, owner, on_demand=True, overlap="allow")
    return await again(world, name, stored.id)


async def again(world: World, name: str, job_id: str) -> str:
    granted = await world.runs.running(await world.runs.request(await world.jobs.get(job_id)))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    return granted.run_id


async def test_the_operator_decides_and_the_run_says_who_and_when(world: World) -> None:
    run_id = await asked(world)
    (waiting,) = await operations.list_waiting()
    assert (waiting.ref, waiting.job, waiting.tool) == (f"{run_id[:12]}.1", "brief", "mail_send")
    with acting_as(Actor(user_id="maria", via="mcp")):
        run = await operations.decide(waiting.ref, approve=False, reason="not now")
    (approval,) = run.approvals
    assert (approval.status, approval.decided_by, approval.reason) == (
        *("rejected", "maria (mcp)", "not now"),
    )
    assert run.reason == "approval: mail_send was rejected by maria (mcp): not now"
    assert await operations.list_waiting() == []
    with pytest.raises(InvalidInput, match=r"was rejected by maria \(mcp\): not now"):
        await operations.decide(run_id, approve=True)


async def test_a_name_of_a_program_or_a_page_is_the_operators(world: World) -> None:
    for via in ("web", "api"):
        run_id = await asked(world, via)
        with acting_as(Actor(via=via)):
            run = await operations.decide(run_id, approve=True)
        assert run.approvals[0].decided_by == f"the operator ({via})"


@pytest.mark.parametrize("tool", ["approval_list", "approval_decide"])
async def test_an_agent_neither_decides_nor_sees_the_tools(world: World, tool: str) -> None:
    run_id = await asked(world, owner="agent:ann")
    with acting_as(AGENT):
        for operation in (
            operations.list_waiting(),
            operations.decide(run_id, approve=True),
        ):
            with pytest.raises(InvalidInput, match="an agent cannot call this operation"):
                await operation
        answer = await call(tool, {"approval": run_id, "decision": "approve"})
    assert answer.refused and "there is no tool" in answer.text
    assert (await world.runs.row(run_id)).waits_for == "approval"


async def test_an_agent_cannot_change_what_its_job_has_approved(world: World) -> None:
    stored = await world.jobs.add("mine", "agent:ann", on_demand=True, approve=["mail.send"])
    with acting_as(AGENT):
        given: list[dict[str, Any]] = [{"approve": []}, {"approve_within": "1s"}, {"policy": {}}]
        for changes in given:
            with pytest.raises(InvalidInput, match="only the operator can change it"):
                await api.jobs.edit_job("mine", changes)
        answer = await call("cron_update", {"job_id": "mine", "options": {"approve": []}})
    assert answer.refused and "unknown field" in answer.text
    assert (await world.jobs.get(stored.id)).job.policy.approve == ("mail.send",)


async def test_jobs_that_a_run_adds_or_changes_inherit_its_approvals_and_sandbox(
    world: World,
) -> None:
    """Otherwise another job could make the call for which the run waits, or write elsewhere."""
    before = await world.jobs.add("before", "agent:ann", on_demand=True)
    approve = ["mail.send", "answer", "webhook"]
    rules: Any = {"approve": approve, "sandbox": "workspace"}
    first = await world.jobs.add("first", on_demand=True, **rules)
    granted = await world.runs.claimed(await world.runs.request(first))
    of_run = actor_of(granted, "ann")
    with acting_as(of_run):
        added = await api.jobs.add({"prompt": "Send it.", "every": "1h"})
        url = {"kind": "webhook", "url": "https://a.example.org", "every": "1h"}
        calling = await api.jobs.add(url)
        with pytest.raises(InvalidInput, match="on_complete: needs an approval"):
            await api.jobs.add({"prompt": "x", "every": "1h", "on_complete": url["url"]})
        await api.jobs.edit_job(before.id, {"prompt": "Send it."})
        edited = await api.jobs.edit_job(added.id, {"approve": []})
        assert edited.policy.approve == added.policy.approve
    assert added.policy.approve == ("mail.send", "answer", "webhook")
    assert (added.policy.sandbox, calling.policy.sandbox) == ("workspace", "")
    assert calling.policy.approve == ("webhook",)
    assert (await world.jobs.get(before.id)).job.policy.approve == of_run.approve
    with acting_as(AGENT):
        assert (await api.jobs.add({"prompt": "Other.", "every": "1h"})).policy.approve == ()


async def test_the_operators_mcp_lists_and_decides(world: World) -> None:
    run_id = await asked(world)
    listed = await call("approval_list")
    assert f"{run_id[:12]}.1: brief asks for mail_send" in listed.text
    assert 'to="ann"' in listed.text
    given = {"approval": f"{run_id[:12]}.1", "decision": "approve"}
    assert "Approved: mail_send" in (await call("approval_decide", given)).text
    second = await call("approval_decide", given)
    assert second.refused and "was approved by" in second.text
    assert (await call("approval_list")).text == "Nothing waits for an approval."


async def test_the_list_shows_each_argument_and_the_whole_ones_on_request(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"body": "x" * 5_000, "to": "ann"}
    stored = await world.jobs.add("brief", on_demand=True)
    granted = await world.runs.running(await world.runs.request(stored))
    question = replace(MAIL, input=arguments.write(given))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    (waiting,) = await operations.list_waiting()
    assert waiting.arguments == given

    for is_full in (False, True):
        assert await approve_(full=is_full) == 0
        shown = capsys.readouterr()
        assert '  to="ann"' in shown.out.splitlines()
        assert ("x" * 5_000 in shown.out) == is_full
        assert ("daybook approve --full" in shown.err) != is_full
    for is_full, asked_for in ((False, {}), (True, {"approval": waiting.ref})):
        text = (await call("approval_list", asked_for)).text
        assert '  to="ann"' in text.splitlines()
        assert ("x" * 5_000 in text) == is_full
    with pytest.raises(InvalidInput, match="cannot be combined"):
        await approve_(waiting.ref, full=True)


@pytest.mark.parametrize(
    ("question", "what"),
    [
        (replace(MAIL, input='to="ann"\nbody="hi"'), 'mail_send(to="ann", body="hi")'),
        (replace(MAIL, position=ANSWER, tool="answer", input="Dear Ann,\n\nhi"), "the answer"),
    ],
)
async def test_the_decision_names_the_call_or_the_answer(
    world: World, capsys: pytest.CaptureFixture[str], question: Question, what: str
) -> None:
    stored = await world.jobs.add("brief", on_demand=True)
    granted = await world.runs.running(await world.runs.request(stored))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    assert await approve_("brief") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Approved: {what}"


async def test_a_run_a_prefix_a_number_or_a_job_names_the_approval(world: World) -> None:
    run_id = await asked(world)
    job_id = str((await world.runs.row(run_id)).job_id)
    with pytest.raises(InvalidInput, match="2 is no approval"):
        await operations.decide(f"{run_id[:12]}.2", approve=True)
    other = await again(world, "brief", job_id)
    with pytest.raises(Ambiguous) as ambiguous:
        await operations.decide("brief", approve=True)
    assert all(f"{each}.1" in str(ambiguous.value) for each in (run_id, other))
    await operations.decide(run_id[:10], approve=True)
    assert (await operations.decide("brief", approve=True)).id == other
    for unknown in ("nobody", "ffffffff.1"):
        with pytest.raises(NotFound):
            await operations.decide(unknown, approve=True)


async def test_an_open_approval_needs_the_operator_and_is_an_event_of_its_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    run_id = await asked(world)
    needs = await attention.read(ZoneInfo("UTC"))
    found = [each.first for each in needs if each.first.kind == "approval"]
    (need,) = found
    assert need.title == "brief wants to call mail_send"
    assert need.why == 'to="ann" (until Thu 15 Jan 2026, 14:00 Europe/Berlin)'
    ref = f"{run_id[:12]}.1"
    assert need.fix == f"daybook approve {ref}, or daybook reject {ref}"
    await operations.decide(run_id, approve=True)
    assert "approval" not in {each.first.kind for each in await attention.read(ZoneInfo("UTC"))}
    life = await show_life(run_id)
    what = [each.what for each in life.events]
    assert "Asked for an approval of mail_send" in what
    assert any(each.startswith("mail_send approved by ") for each in what)


async def test_only_the_entries_that_name_tools_are_looked_up_when_a_job_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def agents(_: object) -> dict[str, list[str]]:
        return {"default": ["offline"]}

    async def servers(_: object) -> list[str]:
        return ["crm"]

    monkeypatch.setattr(documents, "names", agents)
    monkeypatch.setattr(PrefectServers, "names", servers)
    client = cast(PrefectClient, object())

    async def stored(*approve: str) -> None:
        job = new_job(now=world.clock.now(), prompt="x", on_demand=True, approve=list(approve))
        await preflight.check_action(client, job, "user")

    await stored("answer", "crm.send")
    with pytest.raises(InvalidInput, match=r'approve: .*"crmm"'):
        await stored("answer", "crmm")
    with pytest.raises(InvalidInput, match=r"known: answer, crm, daybook, files"):
        await stored("answr")
    with pytest.raises(InvalidInput, match="webhook"):
        await stored("webhook")
    with acting_as(Actor("agent:ann", via="run", approve=("webhook",))):
        await stored("webhook")  # inherited from the run
