"""Task queue from which live agents claim work.

A *task* describes work and the sessions that may do it. A *task run* is one attempt at the work. A
*task session* is a live agent that claims tasks; it is not a session in the sense of a
conversation. The scheduler expires leases, wakes sessions and takes the steps of the escalation
policy. Only sessions claim runs.

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

The live states are queued, claimed and needs_attention. No session can claim a run in the state
`needs_attention`; the operator has to recover, retry or cancel it. A run *starves* if no session
claims it for a long time (`starve_after`). It stays queued, and sessions can still claim it. After
the last escalation step, its `attention` is the reason why it needs an operator.

Guarantees:

* A claim is one transaction under the ledger's lock. One session holds a run, and a session holds
  at most one run. The claim returns a token, of which the ledger stores only the digest. Every
  later operation of the session on the run names the token. The ledger refuses a wrong token, the
  token of an earlier claim, and a token whose lease has expired (`lease_until <= now`, even if the
  run was not queued again). After a refusal, nothing has changed.
* Wakes and claims use the same function to decide whether a session fits a run:
  `matching.refusal_reason`.
* A cycle writes its wakes (rows of the outbox), its worker requests and its counts of starving
  cycles in one transaction. So a cycle that is killed has written all of them or none. Only an
  event may reach Prefect twice, with the same id.
* While the scheduler is paused (`pause`), it wakes no session, and no session can claim a run.
  Leases continue and still expire. A pause state that cannot be read counts as paused.

::

    model           rules for the fields of tasks and task sessions
    policy          `[tasks]` in the settings; the escalation steps       pure, but `load_policy`
    states          states of a run, and the transitions between them     pure
    matching        whether a session fits a run, and in which order      pure
    rows            lookups and changes of runs; their events and alerts
    sessions        register, report, find and remove sessions
    queue           add, list, pause, retry, recover, cancel; history of a run
    selection       which run a session gets
    claims          claim, heartbeat, complete, fail, release
    lease_expiry    requeues runs whose lease has expired
    pause           pause state of the scheduler
    cycle           expire ─► match ─► wake ─► escalate                   one cycle
    wakes           how each session is woken, and the results            rows of the outbox
    worker_requests requests for a new worker                             rows of the runs
    notifier        reports starving runs                                 interface; Prefect events
    statistics      the report of a cycle, and the totals of all cycles
    counts          counts of tasks and sessions
    views           typed results of the operations of `daybook.api`
    scheduler       runs the keeper's cycles, with the last valid settings
    retention       deletes old tasks, wakes and sessions
"""
