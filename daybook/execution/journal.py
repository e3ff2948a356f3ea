"""Journal of the steps of one attempt, in the ledger, and their replay in the next attempt.

`recording` opens the journal for an attempt, and `current` returns it to the code that asks agents.
A step whose start cannot be recorded must not happen, so an unreachable ledger delays the step, at
most until the attempt's timeout. If a newer program has migrated the ledger, no step starts
(`LedgerNewer`), but the attempt may end with its answer. The texts for people are bounded, and
contain no token of a claim.

A further attempt of the run continues from the steps of the earlier attempts. For each position, it
compares the new step with the recorded step::

    no recorded step                 the step happens
    the same step
      ├ it succeeded                 the recorded reply is used again
      ├ a tool call failed           the recorded error, which the model has read, is used again
      ├ a request failed, or its     the request is made anew
      │ reply is unknown
      └ a tool call without a reply  the call is made anew if the tool is idempotent (but not a
                                     third time); otherwise the model reads `UNKNOWN`
    a different step                 the attempt has diverged: the recorded steps from here on are
                                     replaced, and the work goes on without them

So a request with a known reply is paid once, and a call with a known reply has its effect once. A
call that is not idempotent is not made if an equal call got no reply. If a call that is not
idempotent is among the replaced steps, the attempt stops before the next such call, because the
model may request the same effect in other words. All calls of a job whose policy is `idempotent`
count as idempotent.

A call that needs an approval is made only if a person has approved it. A refused call is recorded
as a failed step, so that each attempt replays the refusal. If no person was asked yet, or if the
question was about a different call, `ApprovalNeeded` leaves the attempt (`daybook.runs.approvals`).
A job without an agent calls a tool or a webhook; this call is no step, but waits in the same way.

The instructions of a project are a step before the first request, which every attempt uses as the
first one has recorded it (`RunJournal.keep`). So is the result of a verification, which the next
question contains.

A program makes its steps itself and only reports them (`RunJournal.report`). The journal records
these steps; it neither prevents nor replays them.

`RunJournal.warnings` names the tool calls of the attempt that failed, or whose outcome is unknown.
A call is *recovered*, and not named, if the same tool succeeded with the same arguments later in
the attempt. A success with other arguments proves nothing: it may be another effect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from daybook.agents.journal import (
    PlannedStep,
    ProgramSession,
    StepPosition,
    StepReply,
    arguments_text,
)
from daybook.clock import Clock
from daybook.errors import (
    AgentFailed,
    AgentMisconfigured,
    InvalidInput,
    LedgerNewer,
    LedgerUnreachable,
)
from daybook.execution.held_writes import RETRY_DELAY, unrecorded
from daybook.execution.step_texts import shown_text, stored_text
from daybook.jobs import limits
from daybook.jobs.model import read_parameters
from daybook.jobs.payloads import PAYLOAD
from daybook.ledger import arguments, job_kinds
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import ApprovalRow, AttemptRow, StepRow
from daybook.policies.policy import ANSWER, matches, tools_of
from daybook.processes.ending import wait_shielded
from daybook.redaction import redact_tokens
from daybook.runs import approvals, steps
from daybook.runs import budget as budgets
from daybook.runs.approvals import ApprovalNeeded, ApprovalStatus, Question
from daybook.runs.budget import RunBudget
from daybook.runs.claim_requests import Granted
from daybook.runs.usage import Amount
from daybook.short_text import one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_NAME_CHARACTERS = 200
"""Maximum length of a step's name, which a model or program may have invented."""

MAX_BUDGET_DELAY = timedelta(seconds=10)
"""Maximum delay before the next check of a budget whose rest other requests have reserved."""

MAX_UNANSWERED_CALLS = 2
"""Maximum number of times that the same call of an idempotent tool is made without a reply."""

UNKNOWN = (
    "The outcome of this call is unknown: the process ended, or its time was over, while the call "
    "was made. It was not repeated. Find out whether it had its effect before you do it again."
)
"""Text that a model reads in place of the reply to a call that is not repeated."""

TOO_LONG = (
    "This call was not made: a person has to approve it, and its arguments have {size:,} bytes. "
    "The limit is {most:,} bytes."
)

UNSTORABLE = (
    "This call was not made: a person has to approve it, and its arguments contain a character or "
    "a number that cannot be stored, such as U+0000."
)

NOT_ANSWERED = "This call got no reply in {count} attempts, so it was not made again."

UNPRICED = (
    "budget: the price of a request to {name} is not known, and a budget in US dollars limits the "
    "run; set --input-price and --output-price of a model agent, or unpriced_usd in [budget]"
)

_current: ContextVar[RunJournal | None] = ContextVar("journal", default=None)


MAX_WARNINGS = 20
"""Maximum number of warnings of an attempt, one for each tool; a further line counts the rest."""

MAX_WARNING_CHARACTERS = 200


@contextmanager
def recording(ledger: Ledger, granted: Granted, attempt: int, clock: Clock) -> Iterator[RunJournal]:
    """Yield the journal of this attempt, which `current` returns inside the block."""
    opened = RunJournal(ledger, granted, attempt, clock)
    token = _current.set(opened)
    try:
        yield opened
    finally:
        _current.reset(token)


def current() -> RunJournal | None:
    """Return the journal of the attempt that is running; None outside of an attempt."""
    return _current.get()


class RunJournal:
    """Implementation of `Journal` that records the steps in the ledger."""

    def __init__(self, ledger: Ledger, granted: Granted, attempt: int, clock: Clock) -> None:
        self._ledger, self._granted, self._attempt, self._clock = ledger, granted, attempt, clock
        self.number = attempt
        # A first attempt that has waited for an approval has recorded steps, too.
        self._is_loaded = attempt == 1 and not granted.attempts
        self._last_number = 0
        self._earlier: dict[StepPosition, StepRow] = {}
        """The last step of the earlier attempts at each position, without replaced steps."""
        self._approvals: dict[StepPosition, ApprovalRow] = {}
        """The last approval at each position, without approvals from before a divergence."""
        self._answer: Outcome | None = None
        self._unanswered: list[StepRow] = []
        """The tool calls of earlier attempts whose replies are not known."""
        self._replaced: list[StepRow] = []
        self._difference = ""
        self._numbers: dict[StepPosition, int] = {}
        self._budget: RunBudget | None = None
        self._has_read_budget = False
        self._calls: dict[str, tuple[str, str]] = {}
        """The tool and the error of the last call with each digest; the error may be empty."""

    async def limits_usd(self) -> bool:
        budget = await self._read_budget()
        return budget is not None and budget.limits_usd

    async def is_limited(self) -> bool:
        return await self._read_budget() is not None

    def warnings(self) -> tuple[str, ...]:
        """Return a line for each tool with failed or unanswered calls that did not recover."""
        failures: dict[str, list[str]] = {}
        for name, error in self._calls.values():
            if error:
                failures.setdefault(name, []).append(error)
        lines = [_warning(name, errors) for name, errors in failures.items()]
        left_out = len(lines) - MAX_WARNINGS
        if left_out > 0:
            lines[MAX_WARNINGS:] = [f"calls of {left_out} more tools failed"]
        return tuple(lines)

    async def start(self, step: PlannedStep) -> StepReply | None:
        await self._load()
        row = self._earlier.get(step.position)
        diverged = ""
        if row is not None and row.digest == step.digest:
            if (reply := self._replayed(row, step)) is not None:
                self._note(step, reply.error)
                return reply
        elif row is not None and (row.kind == "tool" or row.reply is not None):
            diverged = self._diverge(row, step)
        may_repeat = self._may_repeat_an_effect(step)
        refused = self._refusal(step) if step.needs_approval and not may_repeat else None
        await self._record(step, diverged, refused)
        if may_repeat:
            if any(each.digest == step.digest for each in self._unanswered):
                reply = StepReply(error=UNKNOWN, value=UNKNOWN)
                await self.finish(step, reply)
                return reply
            await self._check_replaced(step)
        return refused

    async def report(self, step: PlannedStep, reply: StepReply | None = None) -> None:
        with unrecorded():
            await self._load()
            await self._record(step, "", reply)

    async def keep(
        self,
        position: StepPosition,
        find: Callable[[], Awaitable[tuple[PlannedStep, StepReply] | None]],
    ) -> Any:
        """Return the value of the agent's step before a question's first request, None without one.

        The first attempt that comes there calls ``find``, and records the step that it returns.
        Each further attempt uses the recorded value, also if there was no such step.
        """
        await self._load()
        row = self._earlier.get(position)
        if row is not None and row.kind != "request":
            return None if row.reply is None else row.reply["value"]
        made = [each for each in self._earlier if each.agent == position.agent and each.request]
        if any(each > position for each in made):
            return None
        found = await find()
        if found is None:
            return None
        await self.report(*found)
        return found[1].value

    async def finish(self, step: PlannedStep, reply: StepReply) -> None:
        self._note(step, reply.error)
        if (number := self._numbers.get(step.position)) is None:
            return  # its start is not recorded (`unrecorded`)
        status = Status.FAILED if reply.error else Status.SUCCEEDED
        kept = None if reply.value is None else {"facts": step.facts, "value": reply.value}
        amount, exceeds = _amount(step, reply)
        with unrecorded():
            await self._retry(
                lambda: steps.finish(
                    self._ledger,
                    self._granted.fence,
                    self._granted.run_id,
                    number,
                    status,
                    usage=reply.usage,
                    error=stored_text(reply.error) or None,
                    output=stored_text(reply.output),
                    reply=kept,
                    amount=amount,
                    budget=self._budget if exceeds else None,
                )
            )

    async def show(self, step: PlannedStep, text: str) -> None:
        if (number := self._numbers.get(step.position)) is None:
            return
        shown = steps.show(
            self._ledger, self._granted.fence, self._granted.run_id, number, shown_text(text)
        )
        with suppress(LedgerUnreachable):  # the next text comes soon
            await wait_shielded(asyncio.create_task(shown))

    async def program_session(self, session: ProgramSession, *, resumed: bool) -> None:
        granted = self._granted
        state = asdict(session)
        program_session = state.pop("id")
        continued = granted.history[-1].run_id if resumed else None
        with unrecorded():
            await self._retry(
                lambda: steps.record_program_session(
                    self._ledger,
                    granted.fence,
                    granted.run_id,
                    program_session,
                    state,
                    continued=continued,
                )
            )

    async def decided_answer(self) -> Outcome | None:
        """Return the attempt's outcome if a person has decided about its answer; otherwise None.

        With an outcome, the agent must not be asked again.
        """
        if job_kinds.asks_agent(self._granted.kind):
            await self._load()
        return self._answer

    async def refusal_of_own_call(self) -> str:
        """Return why the job must not make its call without an agent; empty if it may.

        Raise `ApprovalNeeded` as `start` does, and `InvalidInput` for unreadable settings.
        """
        granted = self._granted
        if job_kinds.asks_agent(granted.kind):
            return ""
        action, policy, _ = read_parameters(granted.kind, granted.parameters)
        call = action.own_call(granted.found.get(PAYLOAD))
        owner = granted.job.row.owner if granted.job else ""
        entries = tools_of(limits.approvals_of(policy, owner))
        if call is None or not any(matches(call[0], each) for each in entries):
            return ""
        await self._load()
        facts = {"tool": call[0], "arguments": call[1]}
        refused = self._refusal(
            PlannedStep(
                _OWN_CALL, "tool", call[0], facts, arguments_text(call[1]), repeatable=False
            )
        )
        return "" if refused is None else refused.error

    async def acting_agent(self) -> int | None:
        await self._load()
        acted = [position for position, row in self._earlier.items() if _may_have_acted(row)]
        acted += self._approvals  # a person has decided about a call of this agent
        return max((position.agent for position in acted), default=None)

    async def _load(self) -> None:
        """Read the steps of the earlier attempts, once."""
        if self._is_loaded:
            return
        rows, asked = await self._retry(self._read)
        self._answer = approvals.answer(asked)
        of_calls = [each for each in asked if each.position != ANSWER]
        self._approvals = {StepPosition.parse(each.position): each for each in of_calls}
        for row in rows:
            position = StepPosition.parse(row.position)
            if row.replaced:
                self._replaced.append(row)
            else:
                self._earlier[position] = row
            if row.diverged:
                self._forget_approvals(position, before=row.number)
            if row.kind == "tool" and row.status == Status.UNKNOWN:
                self._unanswered.append(row)
            self._difference = row.diverged or self._difference
        self._last_number = rows[-1].number if rows else 0
        self._is_loaded = True

    async def _read(self) -> tuple[list[StepRow], list[ApprovalRow]]:
        run_id = self._granted.run_id
        async with self._ledger.read() as session:
            return await steps.of_run(session, run_id), await approvals.of_run(session, run_id)

    def _forget_approvals(self, position: StepPosition, *, before: int) -> None:
        """Forget the approvals after ``position`` that were requested before step ``before``."""
        self._approvals = {
            at: each
            for at, each in self._approvals.items()
            if at <= position or each.after >= before
        }

    def _refusal(self, step: PlannedStep) -> StepReply | None:
        """Return None if a person has approved the call; otherwise the reply that refuses it.

        The question contains the whole arguments, so refuse a call whose arguments are too long, or
        cannot be stored without a change.
        Raise `ApprovalNeeded` if there is no decision about the call.
        """
        given = step.facts["arguments"]
        if not arguments.is_storable(given):
            return StepReply(error=UNSTORABLE, value=UNSTORABLE)
        written = redact_tokens(arguments.write(given))
        if (size := arguments.size(written)) > arguments.MAX_BYTES:
            text = TOO_LONG.format(size=size, most=arguments.MAX_BYTES)
            return StepReply(error=text, value=text)
        approval = self._approvals.get(step.position)
        status = approval.status if approval is not None else ""
        if approval is None or approval.digest != step.digest or status not in _DECIDED:
            within = self._granted.policy.approve_within
            raise ApprovalNeeded(
                Question(
                    position=str(step.position),
                    digest=step.digest,
                    after=self._last_number,
                    tool=step.name,
                    input=written,
                    within=within,
                )
            )
        if status == ApprovalStatus.APPROVED:
            return None
        text = approvals.refusal(approval)
        return StepReply(error=text, value=text)

    def _replayed(self, row: StepRow, step: PlannedStep) -> StepReply | None:
        """Return the reply to use instead of the step; None if the agent has to execute the step.

        The reply is the recorded reply of an earlier attempt. For a tool call without a recorded
        reply, it is `UNKNOWN` if the call may not be repeated, and `NOT_ANSWERED` after
        `MAX_UNANSWERED_CALLS` calls without a reply.
        """
        is_known = row.status in (Status.SUCCEEDED, Status.FAILED) and row.reply is not None
        if is_known and row.reply is not None:
            value = row.reply["value"]
            return StepReply(error=value if row.status == Status.FAILED else "", value=value)
        if step.kind == "request":
            return None
        if not step.repeatable:
            return StepReply(error=UNKNOWN, value=UNKNOWN)
        count = sum(each.position == row.position for each in self._unanswered)
        if count < MAX_UNANSWERED_CALLS:
            return None
        text = NOT_ANSWERED.format(count=count)
        return StepReply(error=text, value=text)

    def _diverge(self, row: StepRow, step: PlannedStep) -> str:
        """Replace the earlier steps from ``row`` on; return the difference as the reason."""
        facts = (row.reply or {}).get("facts") or {}
        self._difference = f"attempt {row.attempt} asked otherwise: {step.difference(facts)}"
        log.warning(
            "run %s does not continue from step %s: %s",
            self._granted.run_id,
            step.position,
            self._difference,
            extra={"action": "run_diverged"},
        )
        gone = [each for each in self._earlier if each >= step.position]
        self._replaced += [self._earlier.pop(each) for each in gone]
        self._forget_approvals(step.position, before=self._last_number + 1)
        return self._difference

    async def _read_budget(self) -> RunBudget | None:
        """Return the run's budget by the settings at the first request of this attempt.

        Return None if there is no budget. Raise `AgentMisconfigured` for invalid settings.
        """
        if self._has_read_budget:
            return self._budget
        granted = self._granted
        try:
            rules = limits.load_rules()
        except InvalidInput as error:
            raise AgentMisconfigured(str(error)) from None
        budget = budgets.of_run(granted.run_id, granted.parameters, granted.job, rules)
        if budget is not None:

            async def began() -> datetime:
                async with self._ledger.read() as session:
                    key = granted.run_id, self._attempt
                    row = await session.get(AttemptRow, key)
                return self._clock.now() if row is None else row.started_at

            self._budget = replace(budget, began=await self._retry(began))
        self._has_read_budget = True
        return self._budget

    async def _start(self, row: StepRow, replaced: Collection[int], *, is_counted: bool) -> None:
        """Record a step's start; wait while other requests have reserved the rest of a budget.

        The attempt's timeout ends the wait. Raise `AgentFailed` if a budget is used up, and
        `AgentMisconfigured` if a budget in US dollars cannot count the step.
        """
        budget = await self._read_budget() if is_counted else None
        if (
            budget is not None
            and budget.limits_usd
            and budget.unpriced_usd is None
            and row.unpriced
        ):
            raise AgentMisconfigured(UNPRICED.format(name=row.name))
        fence, delay = self._granted.fence, RETRY_DELAY
        while True:
            judged = await self._retry(
                lambda: steps.start(self._ledger, fence, row, replaced, budget)
            )
            if judged.refused:
                raise AgentFailed(judged.refused)
            if not judged.held:
                return
            log.info("%s", judged.held, extra={"action": "budget_held"})
            await self._clock.wait_until(self._clock.now() + delay)
            delay = min(2 * delay, MAX_BUDGET_DELAY)

    def _may_repeat_an_effect(self, step: PlannedStep) -> bool:
        """Return whether ``step`` may repeat an effect, and so must not be made.

        The earlier call is an equal one without a reply, or a replaced one that may have acted.
        """
        if step.kind != "tool" or step.repeatable:
            return False
        is_repeated = any(each.digest == step.digest for each in self._unanswered)
        return is_repeated or any(map(_may_have_acted, self._replaced))

    async def _check_replaced(self, step: PlannedStep) -> None:
        """Raise `AgentFailed` if the call may repeat the effect of a call that was replaced."""
        names = dict.fromkeys(each.name for each in self._replaced if _may_have_acted(each))
        if names:
            message = (
                f"stopped before step {step.position}: {self._difference}. That attempt had called "
                f"{', '.join(names)}, and a call of {step.name} could repeat its effect. To begin "
                "anew, retry the run; a job with --idempotent goes on"
            )
            await self.finish(step, StepReply(error=message))
            raise AgentFailed(message)

    async def _record(
        self, step: PlannedStep, diverged: str, reply: StepReply | None = None
    ) -> None:
        self._note(step, UNKNOWN if reply is None else reply.error)
        self._last_number += 1
        number = self._last_number
        row = StepRow(
            run_id=self._granted.run_id,
            number=number,
            position=str(step.position),
            attempt=self._attempt,
            kind=step.kind,
            name=step.name[:MAX_NAME_CHARACTERS],
            digest=step.digest,
            repeatable=step.repeatable,
            started_at=self._clock.now(),
            input=stored_text(step.input),
            diverged=diverged,
            **asdict(step.estimate or Amount()),
        )
        if reply is not None:
            row.status = (Status.FAILED if reply.error else Status.SUCCEEDED).value
            row.usage = dict(reply.usage) if reply.usage is not None else None
            row.error, row.output = stored_text(reply.error) or None, stored_text(reply.output)
            if reply.value is not None:  # it was refused, so it had no effect
                row.reply, row.repeatable = {"facts": step.facts, "value": reply.value}, True
        replaced = [each.number for each in self._replaced] if diverged else []
        await self._start(row, replaced, is_counted=step.estimate is not None)
        self._numbers[step.position] = number

    def _note(self, step: PlannedStep, error: str) -> None:
        if step.kind == "tool":
            self._calls[step.digest] = (step.name[:MAX_NAME_CHARACTERS], error)

    async def _retry(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Repeat ``work`` until the ledger is reachable; the attempt's timeout ends the repetition.

        It takes effect between two tries, as a cancelled transaction loses its connection. Raise
        `LedgerNewer`, which no further try changes.
        """
        while True:
            try:
                return await wait_shielded(asyncio.create_task(work()))
            except LedgerNewer:
                raise
            except LedgerUnreachable as error:
                log.warning(
                    "a step is not recorded yet: %s", error, extra={"action": "step_not_recorded"}
                )
            await self._clock.wait_until(self._clock.now() + RETRY_DELAY)


def _amount(step: PlannedStep, reply: StepReply) -> tuple[Amount | None, bool]:
    """Return the amount that budgets count for a reply, and whether it exceeds the estimate.

    The amount is None if the estimate counts. Take from the estimate the tokens that the provider
    does not report, and a price that cannot be computed from its report.
    """
    estimate = step.estimate
    if estimate is None or (reply.usage is None and reply.amount is None and reply.may_cost):
        return None, False
    amount = Amount.of(reply.usage) if reply.amount is None else reply.amount
    if reply.usage is not None and not amount.tokens:
        amount = replace(amount, tokens=estimate.tokens)
    if amount.unpriced and not estimate.unpriced:
        amount = replace(amount, usd=estimate.usd, unpriced=0)
    return amount, amount.tokens > estimate.tokens or amount.usd > estimate.usd


def _warning(name: str, errors: list[str]) -> str:
    """Return the text of a warning about failed calls of this tool, with the first known error."""
    known = [each for each in errors if each != UNKNOWN]
    if not known:
        return f"the outcome of tool {name} is unknown"
    count = f" {len(known)} times" if len(known) > 1 else ""
    why = one_line(redact_tokens(known[0]), MAX_WARNING_CHARACTERS)
    unknown = len(errors) - len(known)
    more = f" (and {unknown} with an unknown outcome)" if unknown else ""
    return f"tool {name} failed{count}: {why}{more}"


_OWN_CALL = StepPosition(agent=0, question=1, request=1)
"""Position of the one call that a job makes without an agent."""

_DECIDED = (ApprovalStatus.APPROVED, ApprovalStatus.REJECTED, ApprovalStatus.EXPIRED)


def _may_have_acted(row: StepRow) -> bool:
    return row.kind == "tool" and not row.repeatable
