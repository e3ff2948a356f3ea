"""Sending what the outbox holds: callbacks, messages and alerts (requirements 30 to 32).

::

    ledger.outbox ── asked in the transaction that writes the outcome
          │
          ▼
    drain: claim (lease, fence) ─► post, or a channel ─► record ─┬─ delivered
          ▲                                                      ├─ failed: 410, or the last try
          └────────── later, by `backoff` ◄──────────────────────┘

- `drain` sends what is due: by the process that settled a run, and by the leader's keeper.
- `post` is one try of a callback; `signing` its headers; `destinations` who signs and with what.
- A row is sent at least once, and by one sender at a time: whoever is killed between sending and
  recording leaves a lease, and the next try carries the same `webhook-id`.
- No text of this room names more of an address than `guard.origin` does, and none holds a secret.
"""
