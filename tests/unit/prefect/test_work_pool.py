"""Whose worker it is, by its name; and what a pool is said to be."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from daybook.home import Home
from daybook.prefect.work_pool import WorkPool, is_own_worker

HERE = socket.gethostname()


def at_work(name: str, *, ours: bool) -> dict[str, Any]:
    return {"name": name, "last_heartbeat": None, "ours": ours}


def test_a_worker_that_bears_this_homes_name_is_ours(daybook_home: Home) -> None:
    own = daybook_home.worker_name
    for name in (own, f"{own}-4711"):  # of `up`, and of `daybook worker`
        assert is_own_worker(name, shared=True)
    assert not is_own_worker(f"{own}0", shared=True)


@pytest.mark.parametrize("name", [f"{HERE}-abcdef", f"{HERE}-012345-4711"])
def test_a_worker_of_another_home_on_this_machine_is_not(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert not is_own_worker(name, shared=False)
    # Two homes may have one ledger.
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "sqlite+aiosqlite:////shared/ledger.db")
    assert is_own_worker(name, shared=False)
    assert not is_own_worker(name, shared=True)


@pytest.mark.parametrize("name", ["thursday", "elsewhere-abcdef", f"{HERE}-mine"])
def test_any_other_worker_is_ours_while_nobody_else_has_jobs_there(
    daybook_home: Home, name: str
) -> None:
    assert is_own_worker(name, shared=False)
    assert not is_own_worker(name, shared=True)


def test_a_pool_is_idle_without_a_worker_of_ours() -> None:
    ours, theirs = at_work("a", ours=True), at_work("b", ours=False)
    assert WorkPool("daybook", [ours, theirs], has_ours=True, others=["x"]).idle == ""
    assert (
        WorkPool("", [], has_ours=False, others=[]).idle == "no worker is online, so nothing runs"
    )
    idle = WorkPool("daybook", [theirs], has_ours=True, others=["x"]).idle
    assert idle.endswith("none of its jobs run: b belongs to another Daybook")
    two = WorkPool("daybook", [theirs, at_work("c", ours=False)], has_ours=True, others=["x"]).idle
    assert two.endswith("b, c belong to another Daybook")


def test_a_pool_is_anothers_only_without_jobs_of_ours() -> None:
    alone = WorkPool("daybook", [], has_ours=False, others=["0123456789ab", "ba9876543210"]).foreign
    assert "jobs of another Daybook (ledger 01234567, ba987654) and none of this one" in alone
    assert WorkPool("daybook", [], has_ours=True, others=["0123456789ab"]).foreign == ""
    assert WorkPool("daybook", [], has_ours=False, others=[]).foreign == ""
