"""Private names of Prefect's notification blocks; no other module of this package uses them.

Each name is checked when it is used. If the check fails, a fallback applies that is correct but
more restrictive, and a log line reports it.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


def apprise_of(block: Any) -> Any | None:
    """Return the `Apprise` that a notification block sends with; None if the block has none.

    Also returns None, with a log line, if it is not found. Then the limits of the block's service
    are unknown, and apprise's own processing of a message cannot be disabled.
    """
    from prefect.blocks.notifications import AbstractAppriseNotificationBlock

    if not isinstance(block, AbstractAppriseNotificationBlock):
        return None
    client = getattr(block, "_apprise_client", None)
    if all(hasattr(client, each) for each in ("find", "asset", "notify")):
        return client
    log.warning("Prefect's block %s keeps no apprise as expected", type(block).__name__)
    return None
