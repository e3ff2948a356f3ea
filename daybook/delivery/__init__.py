"""Delivery: callbacks, channel messages and listener calls, from the outbox to the recipient.

::

    outbox rows (written with the outcome) ─► sending: claim ─┬─► inbox: delivered by the claim
                                                              └─► dispatcher ─┬─► callbacks, signed
                                                                              ├─► channels
                                                                              └─► listener_calls
    the result ─► sending: delivered, retried after `backoff`, or failed

Daybook writes each row about a run's outcome in the transaction that records the outcome (promise
6). So no notification is lost if the process dies. A notification may arrive more than once. A
receiver of callbacks can recognise a repetition, because it has the same `webhook-id`.

To support a new messaging service, add a channel, as `channels` describes. To support a new kind of
recipient besides callbacks, channels, listener calls and wakes, start with `outbox.QueueKind`.
"""
