"""The documented automation (docs/guides/automations.md): events of Daybook match it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from daybook import repository
from daybook.keeper import auditor
from daybook.prefect import state_mirror
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = repository.root() / "docs" / "guides" / "automations.md"


def example(ledger_id: str, deployment_id: object) -> AutomationCore:
    text = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    filled = text.replace("LEDGER_ID", ledger_id).replace("DEPLOYMENT_ID", str(deployment_id))
    return AutomationCore.model_validate(yaml.safe_load(filled))


async def test_the_event_of_a_missed_run_matches_the_documented_automation(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy(every="10m", catch_up="none")
    automation = example(world.ledger.id, stored.row.deployment_id)
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
