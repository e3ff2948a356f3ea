"""Where a job's messages go: the port `base.Channel` and its adapters (requirement 33).

::

    check ─► does the name mean a channel, and is the chat id such that it can be sent to
    send  ─► directory: the name ─┬─ inbox · file · console ─────── local
                                  ├─ a notification block ──────── prefect_blocks ─┐
                                  └─ a channel of ours ─────────── ours ───────────┤
             text: cut to what the channel takes ◄── plugins ◄─────────────────────┤
             apart: a thread with an end, which keeps apprise's log to itself ◄────┘

- A name is the operator's: what it means is looked up at every send, so a block that is mended in
  Prefect's UI serves the next try.
- That nothing was raised is no proof for apprise nor for Prefect's blocks, which log a failure and
  go on; here what did not arrive is a `NotDelivered`.
- A message is one message: never split, never cut without saying so.
- No secret of a block stands in an error or in a log.

Only `prefect_blocks` and `directory` import Prefect, and only `plugins` and `ours` apprise; all
only when they are called.
"""

from daybook.delivery.channels.base import Message, NotDelivered
from daybook.delivery.channels.registry import check, names, send

__all__ = ["Message", "NotDelivered", "check", "names", "send"]
