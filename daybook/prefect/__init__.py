"""Reconciliation of the ledger's jobs and runs with Prefect's deployments and flow runs.

Each job has one deployment, which is a lossless projection of the job. The deployment belongs to
the flow of the job's kind, and its name is the job's slug (`docs/promise.md`, "The projection into
Prefect").

Modules for jobs:

- `projection` defines how a job appears in Prefect.
- `diff` compares three projections: the ledger's, the last reconciled one, and Prefect's. `plan`
  decides what follows for one job.
- `import_edits` imports edits made in Prefect, and keeps the values that lose a conflict.
- `deployment` reads and writes one deployment; `deployments` lists them all in few requests.
- `reconcile_job` handles one job, and `reconcile` all jobs, with a `report`.
- `fingerprints` lets the next pass skip jobs that have not changed on either side.
- `instances` finds out whether the deployments were created in this Prefect. If they were, a user
  deleted a missing deployment there; otherwise Daybook has to create the deployment again.
- `adoption` turns deployments of Daybook's flows that a user created in Prefect into jobs.
- `links` stores each job's deployment and the last reconciled state, with open conflicts.
- `parameter_schema` derives the flows' parameters; `summary` describes a job for Prefect's UI.
- `work_pool` reads the pool and its workers; `work_queues` maintains one queue for each class.
- `job_variables` checks the variables of a job against the template of its pool.

Modules for runs:

- `state_mirror` shows outcomes in Prefect; `ended_runs` records ends that Prefect reports.
- `scheduled_runs` gives waiting rows their Prefect runs.
- `stale_runs` handles runs without a process.
- `corrections` fixes Prefect's due times; `run_names` names runs.
- `occurrence` builds the claim request for a flow run.
- `flow_runs` reads runs and changes their states; `states` has the states that Daybook sets.
- `unmirrored` stores the marks of the state mirror; `run_log` writes to the logs of runs.

Modules for both: `client` and `address` for the connection, `known_answers` for what the process of
a run need not ask, `console` for Prefect's log lines in the terminal, and `private_names`.

Contract: the package sends only changes, one after the other. It never writes to a deployment that
belongs to no job of this ledger, and deletes only the deployments of archived jobs. Adoption makes
a deployment a job first.

Pitfalls (measured): any write to a deployment deletes its future auto-scheduled runs. So Daybook
requests scheduling right afterwards, with a start time before the write. An edit of a schedule in
Prefect emits no event and does not change the deployment's `updated`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook import modules_at_first_use

if TYPE_CHECKING:
    from daybook.prefect import (  # noqa: I001 - one line for each name
        address as address,
        adoption as adoption,
        client as client,
        console as console,
        conversations as conversations,
        corrections as corrections,
        deployment as deployment,
        deployments as deployments,
        diff as diff,
        ended_runs as ended_runs,
        fingerprints as fingerprints,
        flow_runs as flow_runs,
        import_edits as import_edits,
        instances as instances,
        job_variables as job_variables,
        known_answers as known_answers,
        links as links,
        models as models,
        occurrence as occurrence,
        parameter_schema as parameter_schema,
        plan as plan,
        private_names as private_names,
        projection as projection,
        reconcile as reconcile,
        reconcile_job as reconcile_job,
        report as report,
        run_log as run_log,
        run_names as run_names,
        scheduled_runs as scheduled_runs,
        server_requests as server_requests,
        stale_runs as stale_runs,
        state_mirror as state_mirror,
        states as states,
        summary as summary,
        unmirrored as unmirrored,
        work_pool as work_pool,
        work_queues as work_queues,
    )

else:  # hide this from mypy, which would accept any name
    __getattr__, __dir__ = modules_at_first_use(__name__)
