"""Transcripts of runs: the prompt, each step, the answer, and what is missing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from daybook.api import transcripts
from daybook.api.transcripts import Transcript, to_markdown
from daybook.errors import InvalidInput, NotFound
from daybook.execution.step_texts import stored_text
from daybook.keeper import retention
from daybook.ledger.engine import sharing
from daybook.ledger.states import Status
from daybook.ledger.tables import SummaryRow
from daybook.owners import Actor, acting_as
from daybook.runs.claim_requests import Granted
from daybook.runs.retention import RetentionLimits
from tests.world import World

pytestmark = pytest.mark.anyio

USED = {
    **{"requests": 1, "input_tokens": 412, "output_tokens": 58, "cost_usd": 0.0001},
    "cache_read_tokens": 300,
}
ATTACK = "```\n# Not a heading\n![x](http://evil.example/x.png) <script>"


async def read(world: World, ref: str) -> Transcript:
    with sharing(world.ledger):
        return await transcripts.read(ref)


async def stepped(world: World, granted: Granted, **call: Any) -> None:
    """Record a request that calls a tool, and the call."""
    await world.runs.stepped(
        granted, Status.SUCCEEDED, input="What is new?", output="mail(to=1)", usage=USED
    )
    called = {"kind": "tool", "name": "mail", "number": 2, "position": "1.1", "input": "to=1"}
    await world.runs.stepped(granted, Status.FAILED, **called | {"error": "no such address"} | call)


async def answered(world: World, prompt: str = "What is new?", **call: Any) -> Granted:
    """Return a run with a step of each kind, and an answer."""
    granted = await world.runs.running(await world.jobs.add())
    await stepped(world, granted, **call)
    given = {"agent": "oa", "model": "gpt-6-luna", "usage": USED}
    await world.runs.finish(granted, Status.SUCCEEDED, output="Nothing.", prompt=prompt, **given)
    return granted


async def test_a_transcript_has_the_prompt_each_step_and_the_answer_in_this_order(
    world: World,
) -> None:
    long = "Look at this: " + "x" * 5_000
    granted = await answered(world, long)
    found = await read(world, granted.run_id[:8])
    assert (found.prompt, found.answer, found.notes) == (long, "Nothing.", [])  # the whole prompt
    assert [(each.position, each.name, each.status) for each in found.steps] == [
        ("1", "gpt-6-luna", "succeeded"),
        ("1.1", "mail", "failed"),
    ]
    text = to_markdown(found)
    parts: tuple[str, ...] = (
        "## Prompt",
        long,
        "## 1 asked",
        "412 tokens in (300 from cache), 58 out",
        "mail(to=1)",
    )
    parts += ("## 1.1 called mail: failed", "no such address", "## Answer", "Nothing.")
    place = 0
    for part in parts:
        place = text.index(part, place)
    written = json.loads(found.model_dump_json())
    assert list(written) == ["run", "notes", "prompt", "steps", "answer"]
    assert written["steps"][0]["usage"] == USED


async def test_a_job_stands_for_its_last_run(world: World) -> None:
    granted = await answered(world)
    assert (await read(world, "brief")).run.id == granted.run_id
    with pytest.raises(NotFound):
        await read(world, "nothing")


async def test_no_text_ends_its_quotation(world: World) -> None:
    granted = await answered(world, ATTACK, output=ATTACK, name=ATTACK)
    text = to_markdown(await read(world, granted.run_id))
    inside, fence = list[str](), ""
    outside = list[str]()
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
            inside.append(line)
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            outside.append(line)
    assert not fence
    assert "# Not a heading" in inside
    headings = [line for line in outside if line.startswith("#")]
    assert len(headings) == 5  # the title, the prompt, two steps, the answer
    assert "<script>" not in "\n".join(outside)
    assert "![" not in "\n".join(outside)


async def test_a_cut_text_says_what_is_missing(world: World) -> None:
    granted = await answered(world, output=stored_text("y" * 2_500))
    assert "(500 more characters)" in to_markdown(await read(world, granted.run_id))


async def test_without_an_answer_the_prompt_is_that_of_the_first_request(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    live = await read(world, granted.run_id)
    assert (live.prompt, live.answer) == ("What is new?", None)
    assert live.notes == [
        "The prompt is that of the job: its variables are not filled in.",
        "The run has not ended: it is running.",
    ]
    await stepped(world, granted)
    await world.runs.finish(granted, Status.FAILED, error="busy", prompt="never stored")
    failed = await read(world, granted.run_id)
    assert (failed.prompt, failed.notes) == ("What is new?", [])
    assert "## Reason\n\n```text\nbusy\n```" in to_markdown(failed)


@pytest.mark.dialect
async def test_removed_texts_are_named_and_the_usage_stays(world: World) -> None:
    granted = await answered(world)
    world.clock.move(timedelta(days=30, seconds=1))
    long = await world.runs.request(await world.jobs.add("long", on_demand=True))
    running = await world.runs.running(long)
    await stepped(world, running)
    world.clock.move(timedelta(days=31))

    limits = RetentionLimits(None, None, texts=timedelta(days=30))
    done = await retention.prune(world.ledger, limits)

    assert (done.steps, done.runs) == (2, 0)
    assert not await retention.prune(world.ledger, limits)
    found = await read(world, granted.run_id)
    assert [(each.input, each.output, each.error) for each in found.steps] == [(None,) * 3] * 2
    assert found.steps[0].usage == USED
    (note,) = found.notes
    assert "The texts of 2 steps were removed" in note
    assert "keep_transcript_days" in note
    assert (found.prompt, found.answer) == ("What is new?", "Nothing.")
    assert note in to_markdown(found)
    # The run that has not ended may continue from them.
    assert [each.input for each in (await read(world, running.run_id)).steps] == [
        "What is new?",
        "to=1",
    ]


async def test_a_summary_after_the_answer_is_named_with_its_usage(world: World) -> None:
    granted = await answered(world)
    async with world.ledger.write() as session:
        session.add(
            SummaryRow(
                session_id=granted.session_id,
                through=2,
                content="S",
                agent="small",
                usage=USED,
                run_id=granted.run_id,
                at=world.clock.now(),
            )
        )
    (note,) = (await read(world, granted.run_id)).notes
    assert "agent small summarized the session up to its message 2" in note
    assert "412 tokens in (300 from cache), 58 out, $0.000100" in note


async def test_a_run_without_an_agent_has_no_transcript(world: World) -> None:
    stored = await world.jobs.add(prompt=None, url="http://localhost/x", on_demand=True)
    row = await world.runs.request(stored)
    with pytest.raises(InvalidInput, match="is a webhook, which has no transcript"):
        await read(world, row.id)


async def test_an_agent_reads_the_transcripts_of_its_own_runs_only(world: World) -> None:
    granted = await answered(world)
    with acting_as(Actor("agent:other", "", "mcp")), pytest.raises(NotFound):
        await read(world, granted.run_id)
