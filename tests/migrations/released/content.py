"""The content of a released ledger, and what a later version must find in it."""

from __future__ import annotations

from datetime import timedelta

from daybook.ledger.states import Status
from tests.world import World

ANSWER = "Two new letters."
USED = {"input_tokens": 1_200, "output_tokens": 34}


async def fill(world: World) -> None:
    """Add jobs with runs in several states, a session, steps, messages and a task."""
    brief = await world.jobs.add(
        "brief", prompt="What is new?", cron="0 7 * * 1-5", timezone="Europe/Rome", session="reuse",
        retries=2, channel="inbox", tokens_per_day=50_000, tags=["morning"],
    )  # fmt: skip
    await world.jobs.add("report", prompt="{{output:brief}}", after="brief", on="any")
    granted = await world.runs.running(brief)
    await world.runs.stepped(granted, Status.SUCCEEDED, input="What?", output="mail()", usage=USED)
    called = {"kind": "tool", "name": "mail", "number": 2, "position": "1.1", "input": "{}"}
    await world.runs.stepped(granted, Status.FAILED, **called, error="no such address")
    given = {"agent": "oa", "model": "gpt-6-luna", "usage": USED, "prompt": "What is new?"}
    await world.runs.finish(granted, Status.SUCCEEDED, output=ANSWER, **given)
    await world.jobs.edit("brief", prompt="What is really new?")
    await world.runs.finished(await world.jobs.get("brief"), Status.FAILED, error="no answer")
    watch = await world.jobs.add("watch", prompt="x", every="1h")
    await world.runs.running(watch)
    once = await world.jobs.add("once", prompt="x", at="2027-02-01T09:00:00+01:00")
    await world.runs.request(once, world.ledger.now() + timedelta(hours=1))
    await world.tasks.claimed()
