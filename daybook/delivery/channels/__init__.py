"""Channels: the interface `base.Channel` and the adapters that send a job's messages.

::

    check ─► validate the channel's name and the chat id
    send  ─► registry: the name ─┬─ inbox · file · console ─────── builtin
                                 ├─ a notification block ──────── prefect_blocks ─┐
                                 └─ a block of our own type ───── apprise ────────┤
             text: truncated to the channel's limit ◄── apprise_plugins ◄─────────┤
             threads: a thread with a timeout that captures apprise's log ◄───────┘

- The operator defines the names. `registry` resolves a name for every message. So if a user fixes
  a block in Prefect's UI, the next attempt uses the fixed block.
- Apprise and Prefect's blocks only log a failure. This package raises `NotDelivered` if a message
  did not arrive.
- A channel never splits a message. If it truncates a message, it adds a mark.
- No error and no log contains a secret of a block, unless it has fewer than 4 characters.

A service that apprise supports needs no code: the operator adds a channel with the service's URL.
To add a built-in channel, write a class in `builtin`, and its name in `outbox.BUILTIN_CHANNELS`,
`registry.BUILTIN` and the description of `jobs.notify.Notify.channel`. If agents may not use the
channel, its name also belongs in `jobs.limits.FORBIDDEN_CHANNELS`.

Prefect and apprise are imported only when a channel that needs them is checked or used.
"""

from daybook.delivery.channels.base import Message, NotDelivered, Postponed
from daybook.delivery.channels.registry import check, names, send

__all__ = ["Message", "NotDelivered", "Postponed", "check", "names", "send"]
