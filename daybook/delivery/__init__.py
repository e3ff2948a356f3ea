"""Delivery: callbacks, channel messages and listener calls, from the outbox to the recipient.

::

    outbox rows (written with the outcome) ─► sending: claim ─► dispatcher ─┬─► callbacks, signed
                                                                            ├─► channels
                                              listeners ─► listener_calls   └─► inbox
    the result ─► sending: delivered, retried after `backoff`, or failed

Daybook writes each row about a run's outcome in the transaction that records the outcome (promise
6), so no notification is lost if the process dies. Delivery is at least once: a notification may
arrive again, and a receiver of callbacks can recognise the repetition by its `webhook-id`.

To support a new messaging service, add a channel: see `channels`. To support a new kind of
recipient besides callbacks, channels, listener calls and wakes, start with `outbox.QueueKind`.
"""
