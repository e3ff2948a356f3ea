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
    settings        the setting `[tasks]`, and its policy
    policy          the options in `[tasks]`; the escalation steps        pure
    states          states of a run, and the transitions between them     pure
    matching        whether a session fits a run, and in which order      pure
    tables          tasks, their runs, sessions, events
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
    views           typed results of the operations
    scheduler       runs the cycles with the last valid policy
    retention       deletes old tasks, wakes and sessions
    restored        pauses the tasks of a restored ledger

    services        the service of the keeper                             scheduler
    operations      operations on tasks and sessions; `scheduler_operations`
    client          `Client.tasks`
    commands        `daybook task`; `session_commands`, `scheduler_commands`, `printing`
    tools           MCP tools for sessions; `tool_calls`, `tool_text`
    resources       sessions as MCP resources; `wake_notifier` sends their wakes
    page            the pages; `changes` detects changes of what they show
    status          the state in `status` and `/health`, and findings; `metrics`
"""

from typing import TYPE_CHECKING

from daybook import modules_at_first_use
from daybook.feature import Commands, Feature

if TYPE_CHECKING:
    from daybook.features.tasks import (  # noqa: I001 - one line for each name
        changes as changes,
        claims as claims,
        client as client,
        commands as commands,
        counts as counts,
        cycle as cycle,
        lease_expiry as lease_expiry,
        matching as matching,
        metrics as metrics,
        model as model,
        notifier as notifier,
        operations as operations,
        page as page,
        pause as pause,
        policy as policy,
        printing as printing,
        queue as queue,
        resources as resources,
        restored as restored,
        retention as retention,
        rows as rows,
        scheduler as scheduler,
        scheduler_commands as scheduler_commands,
        scheduler_operations as scheduler_operations,
        selection as selection,
        services as services,
        session_commands as session_commands,
        sessions as sessions,
        settings as settings,
        states as states,
        statistics as statistics,
        status as status,
        tables as tables,
        tool_calls as tool_calls,
        tool_text as tool_text,
        tools as tools,
        views as views,
        wake_notifier as wake_notifier,
        wakes as wakes,
        worker_requests as worker_requests,
    )

else:  # hide this from mypy, which would accept any name
    __getattr__, __dir__ = modules_at_first_use(__name__)

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands(
            "More",
            "commands",
            (
                "add",
                "list",
                "show",
                "next",
                "heartbeat",
                "complete",
                "fail",
                "release",
                "retry",
                "recover",
                "cancel",
                "pause",
                "resume",
            ),
            "task",
            "Manage the queue of tasks that live agents claim",
        ),
        Commands(
            "",
            "session_commands",
            ("register", "report", "list", "show", "remove"),
            "task session",
            "Manage the live agents that claim tasks",
        ),
        Commands(
            "",
            "scheduler_commands",
            ("status", "pause", "resume", "drain", "backlog", "cycle", "rebuild"),
            "task scheduler",
            "Control the task scheduler",
        ),
    ),
    operations="client:Tasks",
    tools="tools:TOOLS",
    resources="resources:SessionResources",
    pages="page",
    links=(("/tasks", "Tasks"),),
    changes="changes:parts",
    status="status:QueueStatus",
    needs="status:needs",
    metrics="metrics:metrics",
    ledger_checks=(("tasks", "status:check"),),
    settings="settings:TaskSettings",
    loops="services:LOOPS",
    tables="tables",
    retention=(
        "retention:delete_ended_tasks",
        "retention:delete_old_wakes",
        "retention:delete_expired_sessions",
    ),
    restored="restored:pause_tasks",
)
