"""A finding: what a check of this Daybook has found, and what a person can do about it.

`doctor`, `status`, `/health`, the page Today, Prefect's table and the ping select findings from the
same functions (`diagnosis.findings`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypedDict, Unpack

from pydantic import BaseModel, computed_field


class Severity(StrEnum):
    """Severity of a finding. With only warnings, the installation counts as sound."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


class FindingAction(StrEnum):
    """An operation that helps with a finding; it applies to the finding's job or run, if any."""

    COMPARE = "compare job"
    DECIDE = "decide approval"
    EDIT = "edit job"
    READ = "read inbox"
    RESUME = "resume job"
    RETRY = "retry callbacks"
    REVIEW = "review change"
    RUN = "run job"
    SYNC = "sync"


class Finding(BaseModel, frozen=True):
    """Result of a check.

    - ``title`` is a short sentence or a clause. If the check has passed, it is a fact such as a
      version, or empty; if the check was skipped, it is the reason.
    - ``why`` is the cause, such as the error of the last run, or empty.
    - ``fix`` is a command, or a sentence with the command to use. A warning or an overdue run may
      have none.
    - ``kind`` is the kind of a finding about jobs and their runs, such as `failing`; empty for the
      others.
    - ``job_id`` and ``run_id`` are those of the job and the run concerned, or None.
    - ``action`` is the operation that helps, for a button; None if there is none.
    """

    check: str
    severity: Severity
    title: str = ""
    why: str = ""
    fix: str = ""
    kind: str = ""
    job_id: str | None = None
    run_id: str | None = None
    action: FindingAction | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether there is no problem, or only a warning; False for a skipped check."""
        return self.severity in (Severity.OK, Severity.WARNING)

    @property
    def message(self) -> str:
        """The title and the cause."""
        return ": ".join(filter(None, (self.title, self.why)))

    def __str__(self) -> str:
        return "; fix: ".join(filter(None, (self.message, self.fix)))


class _Details(TypedDict, total=False):
    """The fields of a finding that few checks know."""

    why: str
    kind: str
    job_id: str | None
    run_id: str | None
    action: FindingAction | None


def passed(check: str, title: str = "") -> Finding:
    return Finding(check=check, severity=Severity.OK, title=title)


def skipped(check: str, why: str) -> Finding:
    return Finding(check=check, severity=Severity.SKIPPED, title=f"not checked, because {why}")


def problem(check: str, title: str, fix: str, **details: Unpack[_Details]) -> Finding:
    return Finding(check=check, severity=Severity.PROBLEM, title=title, fix=fix, **details)


def warning(check: str, title: str, fix: str = "", **details: Unpack[_Details]) -> Finding:
    return Finding(check=check, severity=Severity.WARNING, title=title, fix=fix, **details)
