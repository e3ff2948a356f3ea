"""Steps of agents' runs in the ledger: requests to models, and calls of tools.

::

    start ──► `running` ──► the request, the call ──► finish ──► `succeeded`, `failed`
                  └── the attempt ended without a reply: `close` ──► `unknown`

A further attempt of the run continues from these rows (`daybook.execution.journal`). When the run
has its outcome, `forget` removes the complete replies.

While a request runs, ``output`` is the text of its reply so far (`show`), which is no reply: no
attempt continues from it, and `finish` or `close` removes it.

A request reserves its estimate in the budgets of its run, in the transaction that records its
start (`daybook.runs.budget`).

`start` and `finish` are one transaction each and carry the run's fencing token. A process that lost
its claim cannot record the start of a step, so it must not cause the step's effect. A start is
committed before the step happens, so a step without a row did not happen. A step that is still
`running` at the end of its attempt may have happened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.errors import FenceRefused
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status, Usage
from daybook.ledger.tables import RunRow, StepRow
from daybook.runs import budget as budgets
from daybook.runs import rows
from daybook.runs.budget import Judgement, RunBudget
from daybook.runs.usage import Amount

_TABLE: Any = StepRow.__table__  # type: ignore[attr-defined]
_HELD = (
    (col(RunRow.id) == bindparam("of_run"))
    & (col(RunRow.fence) == bindparam("of_fence"))
    & (col(RunRow.status) == Status.RUNNING)
)
_STEP = (_TABLE.c.run_id == bindparam("of_run")) & (_TABLE.c.number == bindparam("of_number"))

# One statement each, without the session's objects: an agent makes many steps.
_START = insert(_TABLE).from_select(
    [column.name for column in _TABLE.columns],
    select(*(bindparam(column.name, type_=column.type) for column in _TABLE.columns)).where(
        exists().where(_HELD), ~exists().where(_STEP)
    ),
)
_FINISHED = ("status", "finished_at", "usage", "error", "output", "reply")
_AMOUNT = ("tokens", "usd", "unpriced")
_GIVEN = {
    name: bindparam(f"new_{name}", type_=_TABLE.c[name].type) for name in (*_FINISHED, *_AMOUNT)
}
_FINISH = (
    update(_TABLE)
    .where(_STEP, exists().where(_HELD))
    .values(
        {name: _GIVEN[name] for name in _FINISHED}
        | {name: func.coalesce(_GIVEN[name], _TABLE.c[name]) for name in _AMOUNT}
    )
)

_SHOW = (
    update(_TABLE)
    .where(_STEP, _TABLE.c.status == Status.RUNNING.value, exists().where(_HELD))
    .values(output=_GIVEN["output"])
)


async def start(
    ledger: Ledger,
    fence: int,
    step: StepRow,
    replaced: Collection[int] = (),
    budget: RunBudget | None = None,
) -> Judgement:
    """Record the start of ``step``, before it happens; set its time.

    If ``step`` already has an outcome, record its start and end at once. ``replaced`` has the
    numbers of the earlier steps that this step replaces; no further attempt uses them. If the
    ``budget`` does not allow the step's estimate, record nothing; the `Judgement` has the reason.

    Raise `NotFound`, and `FenceRefused` if the claim was lost: then the step must not happen. A
    second call after a commit whose response was lost changes nothing.
    """
    judged = Judgement()
    async with ledger.write() as session:
        step.started_at = ledger.now()
        if step.status != Status.RUNNING:
            step.finished_at = step.started_at
        elif budget is not None:
            estimate = Amount(step.tokens, step.usd, step.unpriced)
            judged = await budgets.judge(session, budget, step.started_at, estimate, step.number)
            if judged.refused or judged.held:
                await check_held(session, step.run_id, fence)
                return judged
        values = {name: getattr(step, name) for name in StepRow.model_fields}
        done = await session.execute(_START, values | _where(step.run_id, step.number, fence))
        if not _changed(done):
            await check_held(session, step.run_id, fence)
        if replaced:
            of_run = (_TABLE.c.run_id == step.run_id) & _TABLE.c.number.in_(replaced)
            await session.execute(update(_TABLE).where(of_run).values(replaced=True))
    return judged


async def finish(
    ledger: Ledger,
    fence: int,
    run_id: str,
    number: int,
    status: Status,
    *,
    usage: Mapping[str, Any] | None = None,
    error: str | None = None,
    output: str | None = None,
    reply: JsonObject | None = None,
    amount: Amount | None = None,
    budget: RunBudget | None = None,
) -> None:
    """Record the outcome of a step, succeeded or failed.

    ``amount`` is the amount that budgets count; None keeps the recorded amount. With a ``budget``,
    queue the alerts of its limits that are nearly reached. The caller may record a succeeded step
    again as failed if its reply turns out to be useless.

    Raise `NotFound`, and `FenceRefused` if the claim was lost.
    """
    async with ledger.write() as session:
        values = {
            "status": status.value,
            "finished_at": ledger.now(),
            "usage": usage,
            "error": error,
            "output": output,
            "reply": reply,
            **(dict.fromkeys(_AMOUNT) if amount is None else asdict(amount)),
        }
        given = {f"new_{name}": value for name, value in values.items()}
        done = await session.execute(_FINISH, given | _where(run_id, number, fence))
        if not _changed(done):
            await check_held(session, run_id, fence)
        elif budget is not None:
            await budgets.judge(session, budget, ledger.now())


async def show(ledger: Ledger, fence: int, run_id: str, number: int, text: str) -> None:
    """Store the text so far of the reply to a running step, in place of an earlier text.

    Store nothing if the step has ended, or if the claim was lost.
    """
    async with ledger.write() as session:
        await session.execute(_SHOW, {"new_output": text} | _where(run_id, number, fence))


async def record_program_session(
    ledger: Ledger,
    fence: int,
    run_id: str,
    program_session: str,
    state: Mapping[str, Any],
    *,
    continued: str | None,
) -> None:
    """Record the id that the run's program gave its conversation, and its state.

    ``continued`` is the run whose conversation this one continues. The state applies to that run
    too if the program adds to the same conversation, because a further run continues there if this
    run fails. If the program made a copy that is too long, so is the conversation itself.

    Raise `NotFound`, and `FenceRefused` if the claim was lost.
    """
    async with ledger.write() as session:
        await check_held(session, run_id, fence)
        row = await rows.get(session, run_id)
        row.program_session, row.program_state = program_session, dict(state)
        earlier = await session.get(RunRow, continued) if continued else None
        if earlier is not None and earlier.program_session == program_session:
            earlier.program_state = dict(state)
        elif earlier is not None and state["is_full"]:
            earlier.program_state = {**(earlier.program_state or {}), "is_full": True}


async def append(session: AsyncSession, step: StepRow) -> None:
    """Add a step that was made after the outcome of its run; set its number and its attempt.

    This needs no claim, and no attempt continues from it. Raise `NotFound` without the run.
    """
    step.attempt = (await rows.get(session, step.run_id)).attempts
    last = select(func.max(_TABLE.c.number)).where(_TABLE.c.run_id == step.run_id)
    step.number = ((await session.execute(last)).scalar_one() or 0) + 1
    session.add(step)


async def of_run(session: AsyncSession, run_id: str) -> list[StepRow]:
    """Return the steps of a run, sorted by their numbers."""
    query = select(StepRow).where(col(StepRow.run_id) == run_id).order_by(col(StepRow.number))
    return list((await session.execute(query)).scalars())


async def partial_answers(session: AsyncSession, runs: Collection[RunRow]) -> dict[str, str]:
    """Return the text that the agent of each running run has written last, by the run's id.

    That is the text of a running request, or of the last step if this is a request with a reply
    that calls no tool.
    """
    found = {each.id: "" for each in runs if each.state is Status.RUNNING and each.asks_agent}
    if not found:
        return found
    columns = (
        _TABLE.c.run_id,
        _TABLE.c.number,
        _TABLE.c.kind,
        _TABLE.c.status,
        _TABLE.c.output,
    )
    query = select(*columns).where(_TABLE.c.run_id.in_(found)).order_by(_TABLE.c.number)
    shown, last = dict[str, str](), dict[str, int]()
    for run_id, number, kind, status, output in (await session.execute(query)).all():
        is_answer = kind == "request" and status == Status.SUCCEEDED
        found[run_id] = (output or "") if is_answer else ""
        if kind == "request" and status == Status.RUNNING and output:
            shown[run_id] = output
        last[run_id] = number
    for run_id, text in found.items():
        if text and await _calls_tools(session, run_id, last[run_id]):
            found[run_id] = ""
    return found | shown


async def texts_being_written(session: AsyncSession, run_ids: Collection[str]) -> dict[str, str]:
    """Return the text so far of the running request of each run that has one, by the run's id."""
    query = (
        select(_TABLE.c.run_id, _TABLE.c.output)
        .where(
            _TABLE.c.run_id.in_(run_ids),
            _TABLE.c.kind == "request",
            _TABLE.c.status == Status.RUNNING,
        )
        .order_by(_TABLE.c.number)
    )
    return {run_id: output or "" for run_id, output in (await session.execute(query)).all()}


async def _calls_tools(session: AsyncSession, run_id: str, number: int) -> bool:
    """Return whether the response of a model calls tools, which have not started yet."""
    row = await session.get(StepRow, (run_id, number))
    responses = (row.reply or {}).get("value") if row is not None else None
    parts = responses[0].get("parts", ()) if isinstance(responses, list) and responses else ()
    return any(part.get("part_kind") == "tool-call" for part in parts)


@dataclass(frozen=True)
class Request:
    """Usage of a request to a model, and the amount that budgets count for the request."""

    usage: Usage | None
    amount: Amount


async def requests_of(session: AsyncSession, row: RunRow) -> list[Request]:
    """Return the requests to models of the run's last attempt."""
    if not row.asks_agent:
        return []
    columns = (_TABLE.c.usage, _TABLE.c.tokens, _TABLE.c.usd, _TABLE.c.unpriced)
    query = select(*columns).where(
        col(StepRow.run_id) == row.id,
        col(StepRow.attempt) == row.attempts,
        col(StepRow.kind) == "request",
    )
    found = (await session.execute(query)).all()
    return [Request(usage, Amount(*amount)) for usage, *amount in found]


async def close(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Mark as `unknown` the steps that still run at the end of the run's attempt."""
    if not row.asks_agent:
        return
    await session.execute(
        update(_TABLE)
        .where(_TABLE.c.run_id == row.id, _TABLE.c.status == Status.RUNNING)
        .values(status=Status.UNKNOWN.value, finished_at=now, output=None)
    )


async def forget(session: AsyncSession, row: RunRow) -> None:
    """Remove the complete replies of an ended run, which has no further attempt.

    Of the last request, the names of the tools stay, for `tools_of`.
    """
    if not (row.asks_agent and row.attempts):
        return
    of_run, has_reply = _TABLE.c.run_id == row.id, _TABLE.c.reply.is_not(None)
    last = (
        select(_TABLE.c.number, _TABLE.c.reply["facts"]["tools"])
        .where(of_run, has_reply, _TABLE.c.kind == "request", ~_TABLE.c.replaced)
        .order_by(_TABLE.c.number.desc())
        .limit(1)
    )
    found = (await session.execute(last)).first()
    await session.execute(update(_TABLE).where(of_run, has_reply).values(reply=None))
    if found is not None and found[1]:
        of_step = of_run & (_TABLE.c.number == found[0])
        await session.execute(update(_TABLE).where(of_step).values(reply={"tools": list(found[1])}))


def tools_of(made: Sequence[StepRow]) -> list[str]:
    """Return the names of the tools in the run's last request that got a response.

    A model reads these names; the list is empty if there was no tool or no such request.
    """
    for row in reversed(made):
        if row.kind == "request" and row.reply and not row.replaced:
            return list(row.reply.get("tools") or row.reply.get("facts", {}).get("tools") or ())
    return []


def _where(run_id: str, number: int, fence: int) -> dict[str, Any]:
    return {"of_run": run_id, "of_number": number, "of_fence": fence}


def _changed(result: Any) -> bool:
    return bool(result.rowcount)


async def check_held(session: AsyncSession, run_id: str, fence: int) -> None:
    """Raise `NotFound`, and `FenceRefused` if the claim was lost: then nothing may be written."""
    row = await rows.get(session, run_id)
    if row.fence != fence or row.state is not Status.RUNNING:
        raise FenceRefused(run_id, fence, row.fence)
