"""The links at the end of messages: with a public URL, each message that leaves Daybook has one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from daybook.delivery import links, outbox
from daybook.delivery.dispatcher import dispatch
from daybook.delivery.outbox import QueueKind
from daybook.delivery.outgoing import ChannelSender
from daybook.diagnosis.checks import delivery
from daybook.diagnosis.checks import ledger as ledger_checks
from daybook.home import Home
from daybook.ledger.states import Status
from tests.unit.delivery.rows import callback
from tests.world import World

URL = "https://daybook.example.org"
NOTIFY = {"channel": "file", "chat_id": "brief.md"}


async def sent(world: World, home: Home, status: Status = Status.SUCCEEDED) -> tuple[str, str]:
    """Let a job's run end; return the run's id, and the text in the file that is its channel."""
    stored = await world.jobs.add("brief", on_demand=True, notify=NOTIFY)
    granted = await world.runs.running(await world.runs.request(stored))
    await world.runs.finish(granted, status, output="All is well.", error="It broke.")
    sender = ChannelSender(cast(Any, None), world.ledger, "http://127.0.0.1:4200")
    await dispatch(world.ledger, "keeper", {QueueKind.CHANNEL: sender})
    return granted.run_id, (home.path / "out" / "brief.md").read_text()


@pytest.mark.anyio
@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED])
async def test_an_answer_and_a_failure_end_with_the_page_of_their_run(
    world: World, daybook_home: Home, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", URL)
    run_id, text = await sent(world, daybook_home, status)
    assert text.endswith(f"\n\n{URL}/runs/{run_id}\n\n")
    assert text.count("http") == 1


@pytest.mark.anyio
async def test_without_a_public_url_a_message_has_no_link_and_no_word_about_it(
    world: World, daybook_home: Home
) -> None:
    _, text = await sent(world, daybook_home)
    assert text.endswith("\n\nAll is well.\n\n")


def test_a_message_without_a_run_leads_to_its_job_or_to_the_inbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[dict[str, Any], str]] = [
        ({"run_id": "r1", "job_id": "j1"}, "/runs/r1"),
        ({"run_id": None, "job_id": "j1"}, "/jobs/j1"),
        ({"run_id": None, "job_id": None}, "/inbox"),
    ]
    for fields, path in given:
        row = callback(queue=outbox.queue_of_channel("team"), **fields)
        monkeypatch.setenv("DAYBOOK_PUBLIC_URL", URL)
        assert links.page_of(row) == URL + path
        monkeypatch.setenv("DAYBOOK_PUBLIC_URL", "no address")
        assert links.page_of(row) == ""


@pytest.mark.anyio
@pytest.mark.usefixtures("shared_ledger", "daybook_home")
async def test_doctor_says_once_why_messages_have_no_link(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_checks, "exists", lambda: True)  # the ledger is not in this home
    await world.jobs.add("here", on_demand=True, notify=NOTIFY)
    assert await delivery.message_links() == []
    for name in ("first", "second"):
        await world.jobs.add(name, on_demand=True, notify={"channel": "team"})
    (finding,) = await delivery.message_links()
    assert "DAYBOOK_PUBLIC_URL is not set" in finding.title
    assert finding.ok
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", URL)
    assert await delivery.message_links() == []
