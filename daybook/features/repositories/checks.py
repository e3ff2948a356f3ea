"""The check that this machine has git, if a job needs it."""

from __future__ import annotations

import shutil

from daybook.diagnosis.checks import ledger
from daybook.finding import Finding, problem
from daybook.short_text import first_names


async def git() -> list[Finding]:
    """Check that git is on the PATH, if an enabled job works in a repository."""
    if shutil.which("git"):
        return []
    stored = await ledger.stored_jobs()
    names = [each.row.name for each in stored if each.job.enabled and each.job.policy.repo]
    if not names:
        return []
    message = f"git is not installed, so the runs of {first_names(names)} will fail"
    return [problem("git", message, "install git")]
