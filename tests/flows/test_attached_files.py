"""The files of a run in the mail with its outcome, at a real Prefect and a local mail server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.clock import SystemClock
from daybook.delivery.channels import apprise
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.ledger.engine import Ledger
from tests.calling import ModelAgent, calls
from tests.contract.channels.conftest import receiving_letters
from tests.providers import Answer
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


class LaterClock(SystemClock):
    """The machine's clock, ten seconds ahead."""

    def now(self) -> Any:
        return super().now() + timedelta(seconds=10)


async def test_the_mail_of_a_run_has_the_file_that_it_wrote_also_after_a_failed_attempt(
    model_agent: ModelAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", str(tmp_path))
    await model_agent.given("files")
    world, channel = model_agent.world, f"mail-{model_agent.name}"
    async with receiving_letters() as letters:
        await apprise.add(world.client, channel, letters.url())
        letters.answer = "451 4.3.0 try again later"
        result = await model_agent.run(
            calls("files_write", path="out/report.md", content="# Report\n", create_folders=True),
            Answer("The report is written."),
            policy={"work_dir": str(tmp_path)},
            notify={"channel": channel, "attach_files": True},
        )
        assert result["status"] == "succeeded"
        await dispatch_outgoing(world.ledger, world.client, "keeper", ui=None)
        [run] = await world.runs.rows()
        assert (run.delivery, letters.got) == ("pending", [])

        (tmp_path / "out" / "report.md").write_text("changed since")
        letters.answer = "250 OK"
        async with Ledger(world.ledger.address, LaterClock()) as later:
            sent = await dispatch_outgoing(later, world.client, "keeper", ui=None)
    assert sent.delivered == 1
    [mail] = letters.got
    texts = {each.get_filename(): each.get_payload(decode=True) for each in mail.walk()}
    assert texts["report.md"] == b"# Report\n"
