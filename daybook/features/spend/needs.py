"""What needs a person: budgets that are nearly spent."""

from __future__ import annotations

from datetime import timedelta

from daybook.diagnosis.attention import AttentionFacts
from daybook.duration_text import duration_in_words
from daybook.features.spend import operations
from daybook.finding import Finding, FindingAction, warning
from daybook.ledger.references import command_word
from daybook.runs import budget
from daybook.schedules.zones import midnight, wall_time


async def budgets(facts: AttentionFacts) -> list[Finding]:
    """Return a finding for each of today's budgets that is nearly spent (`budget.NEARLY_SPENT`)."""
    today = wall_time(facts.now, facts.tz).date()
    found = await operations.budgets_of(facts.session, today, facts.tz)
    by_id = {each.id: each for each in facts.jobs}
    left = midnight(today + timedelta(days=1), facts.tz) - facts.now
    words = duration_in_words(timedelta(minutes=left // timedelta(minutes=1)))
    return [
        warning(
            "budgets",
            f"{each.name or 'Daybook'} has used {each.share:.0%} of its "
            + ("tokens" if each.unit == "tokens" else "US dollars"),
            f"daybook edit {command_word(by_id[each.job_id])} --{each.unit}-per-day N"
            if each.job_id
            else "daybook spend --since today",
            why=f"{each.words()}; the day ends in {words}",
            kind="budget",
            job_id=each.job_id,
            action=FindingAction.EDIT if each.job_id else None,
        )
        for each in found
        if each.share >= budget.NEARLY_SPENT
    ]
