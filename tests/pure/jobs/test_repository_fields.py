"""Fields of a job about its repository, and what they need."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.model import edit, new_job

NOW = datetime(2026, 11, 29, tzinfo=UTC)
GIVEN: dict[str, Any] = {"prompt": "Repair it.", "on_demand": True, "repo": "/srv/shop"}


def problem(**fields: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        new_job(now=NOW, **{**GIVEN, **fields})
    return str(caught.value)


def test_a_job_that_loses_its_repository_names_all_fields_that_need_one() -> None:
    job = new_job(now=NOW, **GIVEN, verify=["make", "test"], ref="main")
    with pytest.raises(InvalidInput, match="set repo too, or clear ref and verify"):
        edit(job, {"repo": ""}, now=NOW)
    cleared = edit(job, {"repo": "", "ref": "", "verify": []}, now=NOW)
    assert (cleared.policy.repo, cleared.policy.verify) == ("", ())


def test_what_does_not_fit_a_repository_is_refused() -> None:
    assert "cannot be combined with work_dir" in problem(work_dir="/srv/work")
    assert "auto needs a verification" in problem(land="auto")
    assert "does not wait for the approval" in problem(
        land="auto", verify=["make"], approve=["answer"]
    )
    assert "only for a repository at https" in problem(repo_secret="github")
    assert "is needed for pull requests" in problem(land="pull-request")
    with pytest.raises(InvalidInput, match="applies only to agent prompts"):
        new_job(now=NOW, on_demand=True, url="https://example.org/x", repo="/srv/shop")
    assert "cannot be combined with sandbox strict" in problem(
        sandbox="strict", sandbox_hosts=["example.org"]
    )
