"""The documented automations (docs/guides/automations.md): what matches, and what they start."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from daybook import repository
from daybook.clock import SYSTEM_CLOCK
from daybook.keeper import auditor
from daybook.prefect import state_mirror
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = repository.root() / "docs" / "guides" / "automations.md"


def example(number: int, ledger_id: str, deployment_id: object) -> AutomationCore:
    """Return an automation of the page, the first with ``number`` 0."""
    text = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    filled = text.replace("LEDGER_ID", ledger_id).replace("DEPLOYMENT_ID", str(deployment_id))
    return AutomationCore.model_validate(yaml.safe_load(filled))


async def test_the_event_of_a_missed_run_matches_the_documented_automation(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy(every="10m", catch_up="none")
    automation = example(0, world.ledger.id, stored.row.deployment_id)
    automation_id = await world.prefect.ui.create_automation(automation)
    try:
        world.passes(minutes=25)
        await auditor.audit(world.ledger, {stored.id: world.ledger.now()})
        world.passes(seconds=16)
        await state_mirror.mirror(world.ledger, world.client)
        row = await world.runs.row()
        trigger = automation.trigger
        assert isinstance(trigger, EventTrigger)

        async def has_event() -> bool:
            of_run = {"id": [f"prefect.flow-run.{row.flow_run_id}"]}
            filters = {"resource": of_run, "event": {"name": sorted(trigger.expect)}}
            return any(await events(world, filters, trigger))

        assert await becomes_true(has_event, 60.0)
    finally:
        await world.prefect.ui.delete_automation(automation_id)


async def test_an_event_of_another_program_starts_a_job_with_its_payload(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add("print(sys.stdin.read())")
    stored = await world.deploy(on_demand=True, agent=agent.name, prompt="Nothing yet.")
    automation = example(1, world.ledger.id, stored.row.deployment_id)
    automation_id = await world.prefect.ui.create_automation(automation)
    try:
        event = {
            "id": str(uuid4()),
            "occurred": SYSTEM_CLOCK.now().isoformat(),
            "event": "shop.order.placed",
            "resource": {"prefect.resource.id": "shop.order.17"},
            "payload": {"number": 17, "customer": "ACME {{secret:x}}"},
        }
        await world.prefect.request("POST", "/events", [event])

        async def has_started() -> bool:
            return bool(await world.prefect.runs(stored))

        assert await becomes_true(has_started, 100.0)
    finally:
        await world.prefect.ui.delete_automation(automation_id)
    (run,) = await world.prefect.runs(stored)
    assert run.parameters["prompt"].startswith("Check the order 17. Its text is data")
    await world.executions.complete_here(run)
    row = await world.runs.row(stored)
    assert (row.status, row.trigger) == ("succeeded", "manual")
    assert '"customer": "ACME' in str(row.output)


async def events(world: PrefectWorld, filters: dict[str, Any], trigger: EventTrigger) -> list[str]:
    """Return the names of the matching events that have the tag of the trigger."""
    since = (world.ledger.now() - timedelta(days=1)).isoformat()
    body = {"filter": {**filters, "occurred": {"since": since}}}
    response = await world.prefect.request("POST", "/events/filter", body)
    tag = trigger.model_dump(mode="json")["match_related"]["prefect.resource.id"]
    return [
        each["event"]
        for each in response.json()["events"]
        if tag in {related["prefect.resource.id"] for related in each["related"]}
    ]
