"""Budgets: their limits on a run, their words, and the settings."""

from __future__ import annotations

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.limits import Limits
from daybook.policies.budgets import Budget, HomeBudget, Limit, limits, read
from daybook.policies.policy import Policy


def test_every_daily_limit_applies_and_the_lowest_per_run() -> None:
    job = Policy(tokens_per_run=900, usd_per_run=0.5, usd_per_day=2)
    owner = Limits(tokens_per_run=800, tokens_per_day=0, usd_per_run=0.6)
    home = HomeBudget(
        usd_per_run=0.4, tokens_per_day=5_000, agents={"brief": Budget(usd_per_day=1)}
    )
    found = list(limits(job, ("agent:scout", owner), "brief", home))
    assert found == [
        Limit("run", "tokens", 800),
        Limit("run", "usd", 0.4),
        Limit("job", "usd", 2),
        Limit("agent", "usd", 1, " of the agent brief"),
        Limit("home", "tokens", 5_000, " of all runs"),
    ]
    assert list(limits(Policy(), None, "other", home.model_copy(update={"usd_per_run": 0}))) == [
        Limit("home", "tokens", 5_000, " of all runs")
    ]


def test_amounts_in_words() -> None:
    assert Limit("job", "tokens", 10_000).used(12_345) == "12,345 of 10,000 tokens per day"
    assert Limit("run", "usd", 0.5).used(0.4125) == "$0.4125 of $0.50 per run"


@pytest.mark.parametrize(
    ("table", "field", "problem"),
    [
        ({"usd_per_day": -1}, "budget.usd_per_day", "use 0 or more"),
        ({"usd_per_week": 1}, "budget.usd_per_week", "unknown field"),
        (
            {"agents": {"scout": {"usd_per_day": "many"}}},
            "budget.agents.scout.usd_per_day",
            "such as 5",
        ),
        ({"agents": {"scout": {"usd": 1}}}, "budget.agents.scout.usd", "unknown field"),
        ({"usd_per_run": float("inf")}, "budget.usd_per_run", "finite"),
    ],
)
def test_an_invalid_budget_is_refused_with_its_path(
    table: dict[str, object], field: str, problem: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(table)
    assert refused.value.field == field
    assert problem in str(refused.value)
