"""Delivery: callbacks, channel messages and listener calls, from the outbox to the recipient.

::

    outbox rows (written with the outcome) ─► sending: claim ─► dispatcher ─┬─► callbacks, signed
                                                                            ├─► channels
                                              listeners ─► listener_calls   └─► inbox
    the result ─► sending: delivered, retried after `backoff`, or failed

Each row about a run's outcome is written in the transaction of that outcome (promise 6), so nothing
is lost if the process dies. Delivery is at least once; a receiver of callbacks can recognise a
repetition by its `webhook-id`.

A new service for messages is a channel: see `channels`. A new kind of recipient, beside callbacks,
channels, listener calls and wakes, begins with `outbox.QueueKind`.
"""
