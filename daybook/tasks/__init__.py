"""Task queue from which live agents claim work.

A *task* describes the work and the sessions that may do it. A *task run* is one attempt at it.
A *task session* is a live agent that claims tasks (unlike a conversation session). The scheduler
never claims: it expires leases, wakes sessions and escalates. Sessions claim.

::

                     ┌──────────── release · lease expired · recover ───────────────┐
                     ▼                                                              │
    add, retry ──► queued ──claim──► claimed(session, token, lease_until) ──────────┤
                   │  ▲               ├── complete ──► completed                    │
                   │  │               ├── fail ──────► failed ──retry──► another run, number + 1
                   │  └── recover ──┐ │                  (at most 10 per task)      │
                   │                │ └── cancel ──► cancelled ──retry──► …         │
                   └── cancel ──►   │                                               │
                                  needs_attention ◄── third lease expiry ───────────┘

The live states are queued, claimed and needs_attention. No session can claim a run that
`needs_attention` until the operator recovers, retries or cancels it. A starving run stays queued
and can still be claimed; its `attention` says why an operator should look at it.

Guarantees:

* A claim is one transaction under the ledger's lock: one session holds a run, and a session holds
  at most one run. The claim returns a token, of which the ledger stores only the digest. Every
  later operation on the run names the token. A wrong token, the token of an earlier claim and one
  whose lease has expired (`lease_until <= now`, requeued or not) are refused and change nothing.
* Wakes and claims decide with the same function whether a session fits a run:
  `matching.refusal_reason`.
* A cycle writes its decisions in one transaction, together with the outbox rows of its wakes and
  the worker requests. A cycle that is killed at any point has done each of them once or not at all.
* While the scheduler is paused (`pause`), no session is woken and nothing can be claimed; leases
  run on and still expire. A pause state that cannot be read counts as paused.

::

    model           fields of a task; `[tasks]` in the settings           pure
    matching        whether a session fits a run, and in which order      pure
    sessions        register, report, expire and remove sessions
    queue           add, list, pause, retry, recover, cancel; history of a run
    selection       which run a session gets
    claims          claim, heartbeat, complete, fail, release
    lease_expiry    requeues runs whose lease has expired
    pause           pause state of the scheduler
    cycle           expire ─► match ─► wake ─► escalate                   one pass
    wakes           how each session is woken, and the results            rows of the outbox
    worker_requests requests for a new worker                             rows of the runs
    notifier        reports starving runs                                 a port; Prefect events
    statistics      the report of a cycle, and the totals of all cycles
    counts          counts of tasks and sessions
    views           typed results of the operations of `daybook.api`
    scheduler       repeats the cycle, in the keeper
    retention       deletes old tasks, wakes and sessions
"""
