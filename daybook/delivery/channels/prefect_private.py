"""The names of Prefect's blocks that it does not promise to keep: no other module here uses them.

Each is checked when it is used; where the check fails there is a fallback that is right and takes
less, and a line in the log that says so.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


def apprise_of(block: Any) -> Any | None:
    """The `Apprise` that a notification block sends with; None of a block that has none.

    None as well, with a line in the log, where it is not found; then nobody can know what the
    block's service takes, nor switch off what apprise would do to a message.
    """
    from prefect.blocks.notifications import AbstractAppriseNotificationBlock

    if not isinstance(block, AbstractAppriseNotificationBlock):
        return None
    client = getattr(block, "_apprise_client", None)
    if all(hasattr(client, each) for each in ("find", "asset", "notify")):
        return client
    log.warning("Prefect's block %s keeps no apprise as expected", type(block).__name__)
    return None
