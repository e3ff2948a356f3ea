"""Tasks for idle sessions: a queue from which live agents take work (requirements 45-51).

A *task* says what is to be done and who may do it; a *task run* is one try at it; a *task session*
is a live agent (another thing than a conversation, which is called session too). The scheduler
never claims: it sweeps leases that ran out, wakes sessions, and escalates; sessions claim.

::

                      ┌──────────────── release · lease over · recover ──────────────┐
                      ▼                                                              │
    add, retry ──► queued ──claim──► claimed(session, token, lease_until) ───────────┤
                   │  ▲               ├── complete ──► completed                     │
                   │  │               ├── fail ──────► failed ──retry──► another run, number + 1
                   │  └── recover ──┐ │                  (at most 10 of a task)      │
                   │                │ └── cancel ──► cancelled ──retry──► …          │
                   └── cancel ──►   │                                                │
                                  needs_attention ◄── the third time a lease is over ┘

Live is queued, claimed, needs_attention. `needs_attention` is nobody's to claim until the operator
recovers, retries or cancels it. A run that starves stays queued, and says in `attention` why
somebody should look: whoever comes after all may claim it.

What holds:

* A claim is one transaction under the ledger's lock: one session holds a run, and a session one
  run. It answers a token, of which the ledger keeps the digest. Whatever is done with it names the
  token; a wrong one, one of an earlier claim, and one whose lease has run out (`lease_until <=
  now`, swept or not) are refused and change nothing.
* The same rule says at a wake and at a claim whether a session fits a run: `matching.verdict`.
* What a cycle has decided is written in one transaction with the outbox rows of its wakes and the
  request of the worker that it spawns: a cycle that dies anywhere has done each thing once or not.
* While the scheduler is paused (`switch`) nobody is woken and nothing is claimed; leases go on,
  and the sweep too. A switch that cannot be read counts as paused.

::

    matching   whether a session fits a run, in which order     pure
    sessions   register, report, expire, remove
    queue      add, list, pause, retry, recover, cancel; what happened
    choice     which run a session gets
    claims     claim, heartbeat, complete, fail, release
    sweep      leases that are over are taken back
    switch     the scheduler's pause
    cycle      sweep ─► match ─► wake ─► ladder                 one pass
    wakes      who is to be woken how, and how it fared         rows of the outbox
    spawn      the worker that is asked for                     a row of the runs
    sink       where it is told that a run starves              a port; Prefect's events
    statistics what a cycle reports, and what the cycles did
    ladder     `[tasks]` in the settings
    scheduler  the cycle again and again, in the keeper
    prune      what is let go
"""
