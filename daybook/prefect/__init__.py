"""Reconciliation of the ledger's jobs and runs with Prefect's deployments and flow runs.

One deployment per job, named by the job's slug, under the flow of its kind, is a lossless
projection of the job (`docs/promise.md`, "The projection into Prefect").

Jobs: `projection` defines what a job looks like in Prefect, `diff` compares three projections (the
ledger's, the last agreement, Prefect's), `import_edits` takes over edits made in Prefect and keeps
the losing values, `deployment` reads and writes one deployment, `reconcile_job` handles one job and
`reconcile` all of them, with a `report`. `deployments` lists all deployments in few requests, and
`fingerprints` lets the next pass skip jobs that still agree. `instances` knows whether this is
the Prefect in which the deployments were made: if so, a missing one was deleted there, else it
has to be recreated. `adoption` makes jobs of deployments of our flows that somebody else made.

Runs: `state_mirror` shows outcomes in Prefect, `ended_runs` reads ends from it, `scheduled_runs`
gives waiting rows their Prefect runs, `stale_runs` handles runs without a process, `corrections`
fixes Prefect's due times, `run_names` names runs.

Contract: if nothing changed, nothing is sent; else only the changes are. Writes go one after the
other. Other deployments are never written, and only the deployments of archived jobs are deleted.

Pitfalls (measured): any write to a deployment deletes its future auto-scheduled runs, so scheduling
is requested right afterwards, from before the write on. An edit of a schedule in Prefect emits no
event and does not change the deployment's `updated`.
"""
