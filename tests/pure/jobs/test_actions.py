"""Actions answer for themselves: what a new kind of job must say, and who need not know it."""

from __future__ import annotations

import pytest

from daybook.jobs.actions import BaseAction


def test_a_kind_without_a_display_cannot_be_made() -> None:
    class Mute(BaseAction):
        """A kind that does not say how it is shown."""

    with pytest.raises(TypeError, match="abstract.*brief.*facts.*subject"):
        Mute()  # type: ignore[abstract]


