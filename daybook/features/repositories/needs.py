"""What needs a person: changes that wait for a decision."""

from __future__ import annotations

from daybook.api import authorization
from daybook.diagnosis.attention import AttentionFacts
from daybook.diagnosis.findings import MAX_WHY
from daybook.features.repositories import operations
from daybook.finding import Finding, FindingAction, warning
from daybook.short_text import one_line

MAX_FOUND = 50
"""Maximum number of waiting changes that are read."""


async def waiting(facts: AttentionFacts) -> list[Finding]:
    """Return a finding for each change that waits."""
    visible = {each.id for each in facts.jobs}
    sees_all = authorization.visible_owner() is None
    return [
        warning(
            "repositories",
            f"{each.job or 'A direct call'} has a change for {each.onto}",
            f"daybook review {each.run_id[:12]}",
            why=one_line(": ".join(filter(None, (each.size_in_words(), each.problem))), MAX_WHY),
            kind="change",
            job_id=each.job_id,
            run_id=each.run_id,
            action=FindingAction.REVIEW,
        )
        for each in await operations.find(facts.session, MAX_FOUND, waiting=True)
        if sees_all or each.job_id in visible
    ]
