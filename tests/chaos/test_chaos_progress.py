"""Progress check of the chaos test: it waits while work shrinks, and reports a standstill."""

from __future__ import annotations

import pytest

from chaos.progress import FREE_SLOT_SECONDS, STANDSTILL_SECONDS, ProgressCheck, Remaining


def test_the_check_waits_while_the_work_shrinks() -> None:
    check = ProgressCheck(8, 0.0)
    step = STANDSTILL_SECONDS - 1

    for number in range(20, 0, -1):
        assert check.must_wait(Remaining(number), (20 - number) * step)

    assert not check.must_wait(Remaining(0), 20 * step)
    assert not check.standstill


def test_work_that_does_not_shrink_is_a_standstill() -> None:
    check = ProgressCheck(8, 100.0)
    assert check.must_wait(Remaining(3), 100.0)
    assert check.must_wait(Remaining(4), 100.0 + STANDSTILL_SECONDS - 1)

    assert not check.must_wait(Remaining(3), 100.0 + STANDSTILL_SECONDS)

    assert "the remaining work did not decrease; 3 left" in check.standstill


def test_a_free_slot_that_no_waiting_run_gets_is_a_standstill() -> None:
    check = ProgressCheck(8, 0.0)
    remaining = Remaining(104, waiting=104, claimed=0, claims=700)
    assert check.must_wait(remaining, 1.0)
    assert check.must_wait(remaining, FREE_SLOT_SECONDS)

    assert not check.must_wait(remaining, 1.0 + FREE_SLOT_SECONDS)

    assert "only 0 of 8 slots were in use and 104 runs waited" in check.standstill


@pytest.mark.parametrize(
    "busy",
    [
        Remaining(20, waiting=12, claimed=8, claims=700),
        Remaining(20, waiting=0, claimed=2, claims=700),
        Remaining(20, waiting=12, claimed=7, claims=701),
    ],
    ids=["all slots are in use", "no run waits for a slot", "a run was claimed"],
)
def test_full_slots_no_waiting_run_or_a_new_claim_are_no_standstill(busy: Remaining) -> None:
    check = ProgressCheck(8, 0.0)
    assert check.must_wait(Remaining(20, waiting=12, claimed=7, claims=700), 1.0)
    assert check.must_wait(busy, FREE_SLOT_SECONDS)

    after = Remaining(20, waiting=12, claimed=7, claims=busy.claims)
    assert check.must_wait(after, FREE_SLOT_SECONDS + 1.0)

    assert not check.standstill
