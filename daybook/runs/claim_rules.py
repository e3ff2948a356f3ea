"""The rules of a claim, in the order in which they are applied.

A rule takes the `Decision` about one run. If it returns a result, the claim ends with that result;
if it returns None, the next rule is applied. If no rule returns a result, the claim is granted.

To add a rule, write a function here, with an entry in `RULES`, the only list that sets the order.
The first paragraph of its docstring becomes its row in the table of `docs/reference/states.md`
(`make docs`). A condition under which a due time has no row at all is no rule, but a bound of the
schedule (`schedules.bounds`). If the audit should also apply the rule, to due times that no process
claimed, add an entry to `audit._JUDGES`. Put a condition that the audit or `overdue` also checks
into `eligibility`, and a limit of the operator into `claim_limits`.

A rule that makes the run wait until a fixed time needs nothing else. If the wait may end earlier,
the rule names a `WaitReason` of `daybook.ledger.waits`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from daybook.jobs import lateness, upcoming
from daybook.ledger import triggers, waits
from daybook.ledger.column_types import MAX_BIG_INTEGER
from daybook.ledger.states import Status
from daybook.runs import (
    budget,
    claim_limits,
    corrections,
    eligibility,
    folders,
    leases,
    maintenance,
    outcomes,
    overlap,
    sessions,
    slots,
    waiting_runs,
    workers,
)
from daybook.runs.claim_requests import ClaimResult, Waiting
from daybook.runs.decision import Decision, Rule
from daybook.schedules import durations

SETTINGS_RETRY_INTERVAL = timedelta(seconds=30)
"""How long a run waits before it claims again if its worker's settings are invalid."""


async def invalid_parameters(claim: Decision) -> ClaimResult | None:
    """Fail a custom run or a direct call if its flow does not accept the parameters."""
    if not claim.row.error or not claim.is_new:
        return None
    return await claim.end(Status.FAILED, "parameters")


async def lost_by_restore(claim: Decision) -> ClaimResult | None:
    """Record a run as missed if it may have run between the backup from which the ledger was
    restored and the restore.
    """
    if not claim.is_new or claim.row.retry_of:
        return None
    restore = await claim.restore()
    if restore is None or not restore.lost(claim.request):
        return None
    return await claim.end(Status.MISSED, restore.reason)


async def past_deadline(claim: Decision) -> ClaimResult | None:
    """Time out a run whose deadline passed while it waited."""
    if claim.is_new or not (why := waiting_runs.deadline_reason(claim.row, claim.now)):
        return None
    return await claim.end(Status.TIMED_OUT, why)


async def still_waiting(claim: Decision) -> ClaimResult | None:
    """Keep a run waiting until the time that was set for it. A run that waits for a slot or its
    turn may claim earlier.
    """
    row = claim.row
    if claim.is_new or row.until is None or row.until <= claim.now or row.wait_reason.claims_early:
        return None
    for_person = row.wait_reason.for_person
    return Waiting(row.until, row.reason, row.id, fence=row.fence, for_person=for_person)


async def switched_off(claim: Decision) -> ClaimResult | None:
    """Skip a due time, or a run that another job or a hook started, if a person skipped or snoozed
    it, or if its job is disabled or has used up its runs. Skip a backfill if its job is disabled.
    """
    row, newest = claim.row, await claim.newest()
    if newest is None or not eligibility.needs_enabled_job(row):
        return None
    why = eligibility.off_reason(newest, row)
    if not why and claim.is_automatic and not row.attempts:
        why = await eligibility.max_runs_reason(claim.session, newest, claim.now, row.id)
    return await claim.end(Status.SKIPPED, why) if why else None


async def no_longer_due(claim: Decision) -> ClaimResult | None:
    """Skip a due time that an edit removed before its run started."""
    if claim.stored is None or not claim.is_timed or claim.row.attempts:
        return None
    if eligibility.is_due(claim.stored.job, claim.row.due):
        return None
    return await claim.end(Status.SKIPPED, corrections.NO_LONGER_DUE_REASON)


async def skipped_by_maintenance(claim: Decision) -> ClaimResult | None:
    """Skip a due time in a maintenance window if the job's catch-up policy would not run it at the
    end of the window.
    """
    if claim.stored is None or not claim.is_timed or not _undecided(claim):
        return None
    why = (await claim.windows()).skip_reason(claim.stored, claim.row.due)
    return await claim.end(Status.SKIPPED, why) if why else None


async def too_late(claim: Decision) -> ClaimResult | None:
    """Record a due time as missed if the job's catch-up policy says that it is too late."""
    row, stored = claim.row, claim.stored
    if stored is None or not claim.is_timed or not _undecided(claim):
        return None
    late = lateness.judge_at(stored, row.due, claim.now)
    if not late.runs:
        return await claim.miss(stored, late)
    if late.verdict == "run":
        row.trigger = triggers.CATCH_UP.name
    return None


async def staggered(claim: Decision) -> ClaimResult | None:
    """Delay a due time by the job's stagger."""
    row, stored = claim.row, claim.stored
    if stored is None or not claim.is_timed or not _undecided(claim):
        return None
    stagger = upcoming.stagger_offset(stored.id, stored.job.policy.stagger)
    if row.due + stagger <= claim.now:
        return None
    row.queued_at = row.due + stagger  # the deadline does not include the stagger
    why = f"staggered by {durations.to_text(stagger)}"
    return claim.wait(row.queued_at, why, waits.STAGGER)


def _undecided(claim: Decision) -> bool:
    """Return whether the run can still be too late.

    A new run can, and three kinds of waiting runs about which nothing was decided yet: a row
    written ahead of its due time, a run that waited for its staggered time, and a run that waited
    for a holder's state and was not claimed within some minutes after its `until`.
    """
    row = claim.row
    if claim.is_new:
        return True
    after = row.wait_reason.undecided_after
    return after is not None and (row.until or row.due) + after <= claim.now


async def last_run_in_doubt(claim: Decision) -> ClaimResult | None:
    """Make a due time, or a run that another job or a hook started, wait while it is unknown
    whether another run is the last run that `max_runs` allows.
    """
    newest = await claim.newest() if claim.is_automatic else None
    if newest is None:
        return None
    last = await eligibility.uncertain_last_run(claim.session, claim.row, newest, claim.now)
    if last is None:
        return None
    why = f"max runs: it is not known yet whether run {last.id[:8]} is the last"
    return claim.wait(leases.holder_known_at(last, claim.now), why, waits.HOLDER)


async def removed(claim: Decision) -> ClaimResult | None:
    """Skip a run of a job that was removed."""
    if claim.stored is None or claim.stored.row.archived_at is None:
        return None
    return await claim.end(Status.SKIPPED, outcomes.REMOVED_REASON)


async def invalid_settings(claim: Decision) -> ClaimResult | None:
    """Make a run wait while its worker's settings are invalid, because its limits are unknown."""
    why = claim.request.invalid_settings
    return claim.wait(claim.now + SETTINGS_RETRY_INTERVAL, why) if why else None


async def owner_off(claim: Decision) -> ClaimResult | None:
    """Skip a run that was not started by hand if the operator has disabled the jobs of users and
    agents.

    Jobs of plugins, heartbeats, and runs that have had an attempt are exempt.
    """
    if claim.stored is None:
        return None
    why = claim_limits.switched_off(claim.row, claim.stored, claim.request.rules)
    return await claim.end(Status.SKIPPED, why) if why else None


async def in_maintenance(claim: Decision) -> ClaimResult | None:
    """Make a run that was not started by hand, and that has had no attempt, wait for the end of a
    maintenance window.

    A backfill waits too, although a person requested it.
    """
    row, stored = claim.row, claim.stored
    trigger = row.started_by
    is_requested = not (trigger.is_automatic or trigger.is_backfill or claim.is_automatic)
    if stored is None or row.attempts or is_requested:
        return None
    end = (await claim.windows()).end_at(claim.now)
    if end is None:
        return None
    late = lateness.judge_at(stored, row.due, end)
    if claim.is_timed and _undecided(claim) and late.verdict == "run":
        row.trigger = triggers.CATCH_UP.name
    row.queued_at = end  # the deadline does not include the maintenance
    return claim.wait(end, maintenance.reason(end), waits.MAINTENANCE)


async def too_soon(claim: Decision) -> ClaimResult | None:
    """Refuse an agent's run that was started in Prefect too soon after another run of the job."""
    if claim.stored is None:
        return None
    why = await claim_limits.too_soon(
        claim.session, claim.row, claim.stored, claim.request, claim.now
    )
    return await claim.refuse(why) if why else None


async def overlapping(claim: Decision) -> ClaimResult | None:
    """Apply the job's overlap policy: skip the run, or make it wait, for instance until other runs
    of the job are cancelled.
    """
    if claim.stored is None:
        return None
    job, holder = claim.stored.id, claim.request.holder
    # No run is cancelled for a run that could not start.
    cancels = claim.row.policy.overlap == "cancel_running"
    refused = await _refusal(claim) if cancels else None
    decision = await overlap.decide(
        claim.session, claim.row, job, claim.now, holder, may_cancel=refused is None
    )
    if decision is None:
        return None
    if decision.skipped:
        return await claim.end(Status.SKIPPED, decision.why)
    if decision.known_at is not None:
        return claim.wait(decision.known_at, decision.why, waits.HOLDER)
    if refused is not None and decision.cancel:
        return claim.wait(refused.until, refused.why, waits.NO_WORKER)
    until = claim.now + overlap.RETRY_INTERVAL
    waiting = claim.wait(until, decision.why, waits.OVERLAP)
    return replace(waiting, cancel=decision.cancel)


async def owner_limits(claim: Decision) -> ClaimResult | None:
    """Refuse an agent's run that exceeds its owner's limits.

    A run whose answer is decided is exempt: it asks no agent. The limits still apply to the
    recipients of the answer when the answer is sent.
    """
    if claim.stored is None:
        return None
    why = claim_limits.violation(claim.row, claim.stored, claim.request, claim.now)
    if not why or await claim.is_answer_decided():
        return None
    return await claim.refuse(why)


async def over_budget(claim: Decision) -> ClaimResult | None:
    """Refuse a run if a budget of tokens or US dollars is used up. If requests in progress may use
    the rest of the budget, make the run wait.

    A run whose answer is decided is exempt: its answer is paid for already.
    """
    row, rules = claim.row, claim.request.rules
    of_run = budget.of_run(row.id, row.parameters, claim.stored, rules)
    row.tokens = None
    if of_run is None or not budget.asks_agent(row):
        return None
    if await claim.is_answer_decided():
        return None
    judged = await budget.judge(claim.session, of_run, claim.now)
    if judged.refused:
        return await claim.refuse(judged.refused)
    if judged.held:
        return claim.wait(claim.now + budget.RETRY_INTERVAL, judged.held)
    row.tokens = None if judged.tokens is None else min(judged.tokens, MAX_BIG_INTEGER)
    return None


async def session_busy(claim: Decision) -> ClaimResult | None:
    """Make a run wait while another run of its session is in progress (promise 17: two runs never
    interleave in one history).
    """
    row = claim.row
    if claim.request.session_id:
        row.session_id = claim.request.session_id
    elif row.asks_agent and not (row.job_id is None and row.session_id):
        row.session_id = sessions.session_id_of(
            row.parameters, job_id=row.job_id, run_id=row.id, stored=claim.stored
        )
    by_worker = bool(claim.request.worker)
    busy = await sessions.wait_for_turn(claim.session, row, claim.now, by_worker=by_worker)
    return claim.wait(busy.until, busy.why, waits.SESSION) if busy else None


async def folder_busy(claim: Decision) -> ClaimResult | None:
    """Make a run wait while a run of another job works in its folder, or in a folder inside or
    around it, unless one of the two jobs has switched `exclusive_dir` off.

    A direct call never waits.
    """
    claim.row.work_dir = folders.folder_of(claim.row, claim.request)
    busy = await folders.wait_for_folder(claim.session, claim.row, claim.now)
    return claim.wait(busy.until, busy.why, busy.reason) if busy else None


async def agent_full(claim: Decision) -> ClaimResult | None:
    """Make a run wait while as many runs of its agent are in progress as the operator allows.

    A direct call never waits.
    """
    full = await slots.wait_for_agent(claim.session, claim.row, claim.request, claim.now)
    return claim.wait(full.until, full.why, full.reason) if full else None


async def label_full(claim: Decision) -> ClaimResult | None:
    """Make a run wait while as many runs with the label of its job are in progress as the operator
    allows.

    A direct call never waits.
    """
    full = await slots.wait_for_label(claim.session, claim.row, claim.request, claim.now)
    return claim.wait(full.until, full.why, full.reason) if full else None


async def no_worker(claim: Decision) -> ClaimResult | None:
    """Make a run wait if the worker that claims it is draining, has not the label of its job, or
    does not serve its queue.

    A flow that claims for itself starts on any machine, because it has started already.
    """
    refused = await _refusal(claim)
    return claim.wait(refused.until, refused.why, waits.NO_WORKER) if refused else None


async def _refusal(claim: Decision) -> workers.Refusal | None:
    request = claim.request
    if not request.worker:
        return None
    return await workers.refusal(
        claim.session,
        workers.Wanted(claim.row.policy.worker_label, request.queue),
        claim.now,
        worker=request.worker,
        labels=request.labels,
        queues=request.queues,
        is_draining=claim.is_draining,
        since=claim.row.queued_at,
    )


async def no_slot(claim: Decision) -> ClaimResult | None:
    """Make a run wait until a slot of its class is free and its turn has come (promise 12: free
    slots go to the earliest due time).

    A direct call never waits.
    """
    slot_wait = await slots.wait_for_slot(claim.session, claim.row, claim.request, claim.now)
    if not slot_wait:
        return None
    waiting = claim.wait(slot_wait.until, slot_wait.why, slot_wait.reason)
    return replace(waiting, free=slot_wait.free, is_full=slot_wait.is_full)


RULES: tuple[Rule, ...] = (
    lost_by_restore,
    invalid_parameters,
    past_deadline,
    still_waiting,
    switched_off,
    no_longer_due,
    skipped_by_maintenance,
    too_late,
    staggered,
    last_run_in_doubt,
    removed,
    invalid_settings,
    owner_off,
    in_maintenance,
    too_soon,
    overlapping,
    owner_limits,
    over_budget,
    session_busy,
    folder_busy,
    agent_full,
    label_full,
    no_worker,
    no_slot,
)
