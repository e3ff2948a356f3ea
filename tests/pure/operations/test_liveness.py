"""When a silent process counts as hung."""

from __future__ import annotations

from daybook.operations.liveness import Silence


def silence_after(*probes: tuple[bool, float]) -> float:
    silence = Silence(25.0)
    return [silence.add(answered=answered, seconds=seconds) for answered, seconds in probes][-1]


def test_only_probes_without_an_answer_count() -> None:
    assert silence_after((False, 20.0), (False, 20.0)) == 40.0
    assert silence_after((False, 20.0), (True, 20.0), (False, 10.0)) == 10.0


def test_after_a_suspension_of_this_process_the_count_begins_again() -> None:
    assert silence_after((False, 20.0), (False, 8 * 3600.0)) == 0.0
    assert silence_after((False, 20.0), (False, 8 * 3600.0), (False, 20.0)) == 20.0
    assert silence_after((False, 20.0), (False, 25.0)) == 45.0
