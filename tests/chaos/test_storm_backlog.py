"""How long the storm's verdict waits for what is left, and when it calls that a standstill."""

from __future__ import annotations

import pytest

from chaos.backlog import IDLE_SECONDS, PATIENCE_SECONDS, Backlog, Left


def test_it_waits_as_long_as_less_is_left() -> None:
    backlog = Backlog(8, 0.0)
    step = PATIENCE_SECONDS - 1

    for number in range(20, 0, -1):
        assert backlog.goes_on(Left(number), (20 - number) * step)

    assert not backlog.goes_on(Left(0), 20 * step)
    assert not backlog.wrong


def test_what_gets_no_less_is_wrong() -> None:
    backlog = Backlog(8, 100.0)
    assert backlog.goes_on(Left(3), 100.0)
    assert backlog.goes_on(Left(4), 100.0 + PATIENCE_SECONDS - 1)

    assert not backlog.goes_on(Left(3), 100.0 + PATIENCE_SECONDS)

    assert "no less than 3 left" in backlog.wrong


def test_a_free_slot_that_nobody_gets_while_runs_wait_is_wrong() -> None:
    backlog = Backlog(8, 0.0)
    waits = Left(104, unheld=104, held=0, begun=700)
    assert backlog.goes_on(waits, 1.0)
    assert backlog.goes_on(waits, IDLE_SECONDS)

    assert not backlog.goes_on(waits, 1.0 + IDLE_SECONDS)

    assert "0 of 8 slots were taken and 104 runs waited" in backlog.wrong


@pytest.mark.parametrize(
    "busy",
    [
        Left(20, unheld=12, held=8, begun=700),
        Left(20, unheld=0, held=2, begun=700),
        Left(20, unheld=12, held=7, begun=701),
    ],
    ids=["all slots are taken", "nobody waits for a slot", "one has begun"],
)
def test_it_does_not_stand_still_if(busy: Left) -> None:
    backlog = Backlog(8, 0.0)
    assert backlog.goes_on(Left(20, unheld=12, held=7, begun=700), 1.0)
    assert backlog.goes_on(busy, IDLE_SECONDS)

    assert backlog.goes_on(Left(20, unheld=12, held=7, begun=busy.begun), IDLE_SECONDS + 1.0)

    assert not backlog.wrong
