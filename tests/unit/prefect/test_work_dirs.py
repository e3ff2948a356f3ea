"""Work directories that come from Prefect: from a deployment, or from an edit of one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.responses import DeploymentResponse

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.jobs.model import new_job
from daybook.prefect import adoption, import_edits, projection

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
OUTSIDE = "work_dir: .* is outside the allowed folders"


def deployment(work_dir: str) -> DeploymentResponse:
    parameters = {"prompt": "Hello", "policy": {"work_dir": work_dir}}
    given: dict[str, Any] = {"parameters": parameters}
    return DeploymentResponse(id=uuid4(), flow_id=uuid4(), name="a", **given)


def test_only_an_allowed_work_dir_is_adopted_or_imported(
    daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = str(tmp_path / "made later")
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", str(tmp_path))

    job = adoption._job(deployment(allowed), "agent-prompt", (), NOW)
    assert job.policy.work_dir == allowed
    with pytest.raises(InvalidInput, match=OUTSIDE):
        adoption._job(deployment("/etc"), "agent-prompt", (), NOW)

    job = new_job(now=NOW, prompt="Hello", name="a", on_demand=True)
    theirs = projection.of_deployment(deployment(allowed))
    edited = import_edits.with_prefect_fields(job, ["parameters"], theirs, NOW)
    assert edited.policy.work_dir == allowed
    outside = projection.of_deployment(deployment("/etc"))
    with pytest.raises(InvalidInput, match=OUTSIDE):
        import_edits.with_prefect_fields(edited, ["parameters"], outside, NOW)
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", "/srv")  # the stored value stays valid
    again = import_edits.with_prefect_fields(edited, ["parameters"], theirs, NOW)
    assert again.policy.work_dir == allowed
