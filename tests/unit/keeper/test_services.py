"""The keeper's budget, and which requests of Prefect's client are writes."""

from __future__ import annotations

import pytest

from daybook.keeper.budget import MAX_WAIT_SECONDS, CpuBudget
from daybook.keeper.leadership import is_write


class Time:
    """A monotonic clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pass_that_costs_less_than_its_share_waits_for_nothing() -> None:
    time = Time()
    budget = CpuBudget(0.02, 0.2, time)
    for _ in range(1000):
        time.now += 10.0
        budget.spend(0.19)
        assert budget.wait() == 0.0


def test_a_pass_that_costs_more_is_paid_back_first() -> None:
    time = Time()
    budget = CpuBudget(0.02, 2.0, time)
    began, spent = time.now, 0.0
    for _ in range(1000):
        budget.spend(1.0)
        spent += 1.0
        time.now += max(10.0, budget.wait())

    # In the long run the share, and no less than could be had.
    assert spent / (time.now - began) == pytest.approx(0.02, rel=0.01)


def test_what_was_saved_is_used_at_once_and_is_not_endless() -> None:
    time = Time()
    budget = CpuBudget(0.02, 2.0, time)
    time.now += 1e6
    budget.spend(2.0)
    assert budget.wait() == 0.0
    budget.spend(0.1)
    assert budget.wait() == pytest.approx(5.0)


def test_one_long_pass_does_not_stop_the_keeper_for_hours() -> None:
    budget = CpuBudget(0.02, 2.0, Time())
    budget.spend(3600.0)
    assert budget.wait() == pytest.approx(MAX_WAIT_SECONDS)


@pytest.mark.parametrize(
    ("method", "path", "writes"),
    [
        ("GET", "/api/deployments/1", False),
        ("POST", "/api/deployments/filter", False),
        ("POST", "/api/flow_runs/paginate", False),
        ("POST", "/api/flow_runs/count", False),
        ("POST", "/api/work_pools/daybook/get_scheduled_flow_runs", False),
        ("POST", "/api/deployments/1/schedule", True),
        ("POST", "/api/deployments/1/create_flow_run", True),
        ("POST", "/api/flow_runs/1/set_state", True),
        ("POST", "/api/deployments/", True),
        ("PATCH", "/api/deployments/1", True),
        ("PUT", "/api/deployments/1", True),
        ("DELETE", "/api/deployments/1", True),
        ("DELETE", "/api/deployments/filter", True),
    ],
)
def test_what_may_change_something_is_a_write(method: str, path: str, writes: bool) -> None:
    assert is_write(method, path) is writes
