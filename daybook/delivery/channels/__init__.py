"""Channels: the interface `base.Channel` and the adapters that send a job's messages.

::

    check ─► validate the channel's name and the chat id
    send  ─► registry: the name ─┬─ inbox · file · console ─────── builtin
                                 ├─ a notification block ──────── prefect_blocks ─┐
                                 └─ a block of our own type ───── apprise ────────┤
             text: truncated to the channel's limit ◄── apprise_plugins ◄─────────┤
             threads: a thread with a timeout that captures apprise's log ◄───────┘

- The operator defines the names. A name is resolved at every send, so a block that is fixed in
  Prefect's UI serves the next attempt.
- Apprise and Prefect's blocks log a failure instead of raising it; here a message that did not
  arrive raises `NotDelivered`.
- A message is sent as one message: never split, and never truncated without a mark.
- No error and no log contains a secret of a block.

A new service needs no code if apprise supports it: its URL makes a channel. A new built-in channel
is a class in `builtin`, with its name in `outbox.BUILTIN_CHANNELS` and in `registry.BUILTIN`, in
the description of `jobs.notify.Notify.channel`, and in `jobs.limits.FORBIDDEN_CHANNELS` if agents
may not use it.

Prefect and apprise are imported only when a channel that needs them is checked or used.
"""

from daybook.delivery.channels.base import Message, NotDelivered
from daybook.delivery.channels.registry import check, names, send

__all__ = ["Message", "NotDelivered", "check", "names", "send"]
