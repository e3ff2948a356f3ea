"""The answers of triggers and kinds, and that no other module compares their names."""

from __future__ import annotations

import re
from pathlib import Path

import daybook
from daybook.jobs.actions import ACTIONS
from daybook.ledger import job_kinds, triggers
from daybook.ledger.tables import RunRow
from daybook.testing import ManualClock

NOW = ManualClock().now()
PACKAGE = Path(daybook.__file__).parent


def test_the_kinds_that_ask_agents_are_those_with_sessions() -> None:
    of_actions = {kind for kind, model in ACTIONS.items() if "session" in model.model_fields}
    assert set(job_kinds.ASK_AGENTS) == of_actions
    assert not job_kinds.asks_agent("a kind of a later version")


def test_the_answers_of_each_trigger() -> None:
    questions = ("by_schedule", "by_event", "is_backfill", "is_direct", "is_automatic")
    answers = {
        name: {each for each in (*questions, "has_due_time") if getattr(trigger, each)}
        for name, trigger in triggers.TRIGGERS.items()
    }
    assert answers == {
        "schedule": {"by_schedule", "is_automatic", "has_due_time"},
        "catch_up": {"by_schedule", "is_automatic", "has_due_time"},
        "after": {"by_schedule", "by_event", "is_automatic", "has_due_time"},
        "hook": {"by_event", "is_automatic"},
        "backfill": {"is_backfill", "has_due_time"},
        "manual": set(),
        "direct": {"is_direct"},
        "session": set(),
        "retry": set(),
        "imported": set(),
    }


def test_a_row_answers_for_its_trigger_and_kind() -> None:
    row = RunRow(
        occurrence="o", kind="heartbeat", trigger="hook", due=NOW, status="waiting", queued_at=NOW
    )
    assert (row.asks_agent, row.started_by) == (True, triggers.HOOK)
    row.kind, row.trigger = "webhook", "a caller of a later version"
    assert (row.asks_agent, row.started_by.is_automatic) == (False, False)
    assert str(row.started_by) == "a caller of a later version"
    assert str(triggers.MANUAL) == "by hand"


def test_no_module_compares_names_of_triggers() -> None:
    compared = re.compile(r"""trigger(?:\)| not)?\s*(?:[!=]=|in)\s*\(?["'*]""")
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if compared.search(line)
    ]
    assert found == []
