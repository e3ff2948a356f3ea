"""Drafts: which texts are too short to be shown."""

from __future__ import annotations

from daybook.features.conversations.drafts import MIN_CHARACTERS
from daybook.jobs.notify import SILENT_MARKERS


def test_a_marker_of_silence_is_no_draft() -> None:
    assert max(map(len, SILENT_MARKERS)) < MIN_CHARACTERS
