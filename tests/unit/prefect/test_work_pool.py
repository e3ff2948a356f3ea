"""Ownership of workers by name, and the state of a work pool."""

from __future__ import annotations

import socket

import pytest

from daybook.home import Home
from daybook.prefect.work_pool import OnlineWorker, WorkPool, is_own_worker

HERE = socket.gethostname()


def at_work(name: str, *, is_own: bool) -> OnlineWorker:
    return OnlineWorker(name=name, last_heartbeat=None, ours=is_own)


def test_a_worker_with_the_name_of_this_home_is_ours(daybook_home: Home) -> None:
    own = daybook_home.worker_name
    for name in (own, f"{own}-4711"):  # the names of `up` and of `daybook worker`
        assert is_own_worker(name, shared=True)
    assert not is_own_worker(f"{own}0", shared=True)


@pytest.mark.parametrize("name", [f"{HERE}-abcdef", f"{HERE}-012345-4711"])
def test_a_worker_of_another_home_is_ours_only_with_a_shared_ledger(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert not is_own_worker(name, shared=False)
    # Two homes may have one ledger.
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "sqlite+aiosqlite:////shared/ledger.db")
    assert is_own_worker(name, shared=False)
    assert not is_own_worker(name, shared=True)


@pytest.mark.parametrize("name", ["thursday", "elsewhere-abcdef", f"{HERE}-mine"])
def test_any_other_worker_is_ours_unless_the_pool_is_shared(daybook_home: Home, name: str) -> None:
    assert is_own_worker(name, shared=False)
    assert not is_own_worker(name, shared=True)


def test_a_pool_is_idle_without_a_worker_of_ours() -> None:
    own, theirs = at_work("a", is_own=True), at_work("b", is_own=False)
    assert WorkPool("daybook", [own, theirs], has_ours=True, others=["x"]).idle == ""
    assert (
        WorkPool("", [], has_ours=False, others=[]).idle == "no worker is online, so nothing runs"
    )
    idle = WorkPool("daybook", [theirs], has_ours=True, others=["x"]).idle
    assert idle.endswith("none of its jobs run: b belongs to another Daybook")
    two = WorkPool(
        "daybook", [theirs, at_work("c", is_own=False)], has_ours=True, others=["x"]
    ).idle
    assert two.endswith("b, c belong to another Daybook")


def test_a_pool_belongs_to_another_daybook_only_without_jobs_of_this_one() -> None:
    alone = WorkPool("daybook", [], has_ours=False, others=["0123456789ab", "ba9876543210"]).foreign
    assert "jobs of another Daybook (ledger 01234567, ba987654) and none of this one" in alone
    assert WorkPool("daybook", [], has_ours=True, others=["0123456789ab"]).foreign == ""
    assert WorkPool("daybook", [], has_ours=False, others=[]).foreign == ""
