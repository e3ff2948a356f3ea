"""The ledger's jobs as Prefect deployments, and what was edited there back again.

Purpose: one deployment per job, named by the job's slug, under the flow of its kind, as a lossless
projection of the job (requirement 52; `docs/promise.md`, "The projection into Prefect").

Contract: `projection` says what a job looks like in Prefect, `plan` compares three of these (the
ledger's, what both sides last agreed on, Prefect's), `pull` takes over what was edited in Prefect
and keeps what loses, `deployments` reads and writes, `bring` does one job, `reconcile` all, and
gives a `report`: by one `listing`, past what was `seen` in agreement. `place` knows whether this is
the Prefect in which they were made: what is missing was deleted there, or has to be made again.
`adopt` makes jobs of what somebody deployed of our flows. Nothing is sent when nothing changed, and
only what changed; writes go one after the other. Any other deployment is never written, and one
that is no archived job's never deleted.

Pitfalls (measured): any write to a deployment deletes its future auto-scheduled runs, so scheduling
is asked for right afterwards, from before the write on; edits of a schedule in Prefect emit no
event and do not touch the deployment's `updated`.
"""
