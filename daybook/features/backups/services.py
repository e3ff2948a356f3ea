"""The service of the keeper that makes the nightly backups."""

from __future__ import annotations

from functools import partial

from daybook.features.backups import create
from daybook.keeper.services import Loop, Service
from daybook.timing import TIMING

TIMEOUT_SECONDS = 3600.0
"""Timeout of a nightly backup, which copies the whole ledger."""

LOOPS = (
    Loop(
        interval=lambda: TIMING.backup_interval,
        services=(
            Service(
                "backup",
                "makes the nightly backup, if a folder for it is set",
                lambda context, _: partial(create.create_nightly, context.ledger),
                timeout=TIMEOUT_SECONDS,
            ),
        ),
    ),
)
