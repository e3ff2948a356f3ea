"""Sending of the outbox rows that leave Daybook: requests to URLs, and messages to channels."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from daybook.delivery import attachments, backoff, channels, links, messages, outbox
from daybook.delivery.attachments import WrittenFile
from daybook.delivery.callbacks import CallbackSender
from daybook.delivery.dispatcher import DispatchResult, dispatch
from daybook.delivery.outbox import QueueKind
from daybook.delivery.sending import DeliveryResult
from daybook.errors import LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, RunRow

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MESSAGE_TIMEOUT_SECONDS = 30.0
"""Timeout of one message to a channel. For a callback, its destination sets the timeout."""


async def dispatch_outgoing(
    ledger: Ledger,
    client: PrefectClient,
    holder: str,
    *,
    ui: str | None,
    run_id: str | None = None,
    hurried: bool = False,
    claims_for: float | None = None,
    sent: DispatchResult | None = None,
) -> DispatchResult:
    """Send all due callbacks and messages with `dispatcher.dispatch`.

    With ``run_id``, send only the callbacks and messages of that run. ``ui`` is the address of
    Prefect's UI, for the link from a cut message to its run, if the settings have no public URL;
    None for no link.

    ``hurried`` is true if the process may be stopped before it records a result. Then send no
    message to a channel that needs Prefect, because the message could arrive twice. Send callbacks
    anyway, because their receivers can recognise a repetition by its id.
    """

    def accepts(queue: str) -> bool:
        is_callback = outbox.kind_of_queue(queue) is QueueKind.URL
        return is_callback or outbox.is_builtin_queue(queue) or not hurried

    async with CallbackSender(client, ledger.now) as callbacks:
        return await dispatch(
            ledger,
            holder,
            {QueueKind.URL: callbacks, QueueKind.CHANNEL: ChannelSender(client, ledger, ui)},
            accepts=accepts,
            run_id=run_id,
            claims_for=claims_for,
            sent=sent,
        )


class ChannelSender:
    """Sends messages and alerts to channels. ``ui`` is the address of Prefect's UI."""

    def __init__(self, client: PrefectClient, ledger: Ledger, ui: str | None) -> None:
        self._client, self._ledger, self._ui = client, ledger, ui

    async def send(self, row: OutboxRow) -> DeliveryResult:
        """Make one attempt to send the message.

        Raise `PrefectUnreachable` or Prefect's own error if the channel cannot be read from
        Prefect. After these errors, no attempt was made.
        """
        url, files, lines = await self._of_run(row)
        started, final = time.perf_counter(), False
        try:
            async with asyncio.timeout(MESSAGE_TIMEOUT_SECONDS):
                await channels.send(self._client, row, url, files, lines)
        except channels.Postponed as error:
            return DeliveryResult(
                row.id,
                row.fence,
                Delivery.PENDING,
                None,
                0.0,
                error=str(error),
                is_postponed=True,
            )
        except channels.NotDelivered as error:
            problem, final = str(error), not error.temporary
        except TimeoutError:
            problem = f"no result within {MESSAGE_TIMEOUT_SECONDS:g} s; it may have arrived"
        else:
            problem = ""
        seconds = time.perf_counter() - started
        if not problem:
            return DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, seconds)
        return backoff.failed(row, self._ledger.now(), problem, seconds, final=final)

    async def _of_run(self, row: OutboxRow) -> tuple[str | None, list[WrittenFile], list[str]]:
        """Return the URL of the run in Prefect's UI, or None, its files, and the last lines.

        These are the run's warnings and the links. With a public URL, the message needs no URL of
        Prefect.
        """
        page = links.page_of(row)
        files, lines = list[WrittenFile](), list[str]()
        run = None
        try:
            async with self._ledger.read() as session:
                lines = await links.read(session, row)
                run = await session.get(RunRow, row.run_id) if row.run_id else None
                files = await attachments.read(session, row, run) if run else []
                if run and row.purpose == outbox.MESSAGE and row.event == "completed":
                    lines = [*filter(None, [messages.warnings(run, row.owner)]), *lines]
        except LedgerUnreachable:  # the message is more important than its links and files
            pass
        if page or self._ui is None or run is None or not run.flow_run_id:
            return None, files, [*lines, *filter(None, [page])]
        return f"{self._ui}/runs/flow-run/{run.flow_run_id}", files, lines
