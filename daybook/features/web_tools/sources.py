"""The page that a call of `web.fetch` has read, by the beginning of its answer."""

from __future__ import annotations

import re

from daybook.ledger.views import RunSource, Step

PAGE = "a page of the web"
MAX_ADDRESS_CHARACTERS = 2_000

_NAME = re.compile(r"web_fetch(?:_[0-9a-f]{8})?")
"""The tool's name as a model sees it, perhaps with a hash (`execution.agent_tools`)."""
_HEAD = re.compile(
    rf"^\[.{{0,200}}: {PAGE}; .{{0,200}}\]\n(?:Title: (.*)\n)?Address: (.*)\n", re.MULTILINE
)


def read_by(step: Step) -> RunSource | None:
    """Return the page that a call has read; None for any other call."""
    if not _NAME.fullmatch(step.name):
        return None
    # Title and address have one line each, so the text of the page cannot replace them.
    head = _HEAD.search(step.output or "")
    if head is None or len(head[2]) >= MAX_ADDRESS_CHARACTERS:  # a longer address is cut
        return None
    return RunSource(title=head[1] or "", address=head[2])
