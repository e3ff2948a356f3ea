"""The `AGENTS.md` of a job's work directory in a run at a real Prefect."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.calling import ModelAgent, calls
from tests.providers import Answer, Status
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


async def test_a_run_gets_them_and_its_retry_keeps_them_although_the_agent_changed_them(
    model_agent: ModelAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_ALLOW_SHELL", "true")
    (tmp_path / "AGENTS.md").write_text("Use spaces.")
    await model_agent.given("files", "shell")
    policy = {"work_dir": str(tmp_path)}

    result = await model_agent.run(
        calls("files_write", path="AGENTS.md", content="Use tabs."),
        calls("shell_run", command="echo Use tabs. > AGENTS.md"),
        Status(503, "Busy."),
        Answer("Done."),
        policy=policy,
    )

    assert (result["status"], result["output"]) == ("succeeded", "Done.")
    requests = model_agent.fake_provider.requests
    assert len(requests) == 4  # the retry makes only the failed request again
    assert {each.messages[0] for each in requests} == {
        ("system", f"Instructions of the project, from {tmp_path}/AGENTS.md:\n\nUse spaces.")
    }
    assert "instructs later runs, so no tool writes it" in requests[1].prompt
    assert (tmp_path / "AGENTS.md").read_text() == "Use tabs.\n"

    requests.clear()
    off = {**policy, "project_instructions": False}
    await model_agent.run(Answer("Hello."), policy=off)
    assert [role for role, _ in requests[0].messages] == ["user"]
