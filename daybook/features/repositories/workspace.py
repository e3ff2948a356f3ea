"""The workspace of a run with a repository: worktree, setup, agents, change, verification.

::

    worktree ─► row `working` ─► setup ─► agents ─► collect ─► verify ─► the change is recorded
                                            ▲                    │
                                            └─ the output of a ──┘
                                               failed one

A process that is killed leaves the worktree, and the row if an agent may have worked there. A
further attempt goes on in it, with the recorded result of a verification whose output the agent has
got. If the run has no further attempt, the worktree stays for a person.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import textwrap
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from slugify import slugify
from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col, select

from daybook.agents.journal import PlannedStep, StepPosition, StepReply
from daybook.errors import (
    AgentError,
    AgentFailed,
    AgentTemporary,
    AgentTimeout,
    DaybookError,
    InvalidInput,
)
from daybook.execution import held_writes, journal, sandboxing
from daybook.execution.answers import MAX_FINISH_SECONDS, MAX_QUOTED_CHARACTERS, QUESTIONS
from daybook.execution.journal import RunJournal
from daybook.execution.workspaces import Ask, WorkQuestion
from daybook.features.repositories import job_programs, messages, review
from daybook.features.repositories.access import RepositoryRefused
from daybook.features.repositories.forges import Forge
from daybook.features.repositories.git import GitFailed
from daybook.features.repositories.job_programs import ProgramEnd
from daybook.features.repositories.locks import StillLocked
from daybook.features.repositories.store import Store
from daybook.features.repositories.tables import ChangeRow, ChangeStatus
from daybook.features.repositories.worktrees import (
    Change,
    Worktree,
    folder_of,
    remove_folder,
)
from daybook.json_text import JsonObject
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger, reading
from daybook.ledger.states import Outcome, Status
from daybook.ledger.texts import sanitize
from daybook.policies.policy import Policy
from daybook.policies.repositories import Upstream
from daybook.processes import locations
from daybook.redaction import redact_remembered, redact_tokens
from daybook.runs import usage
from daybook.runs.claim_requests import Granted, agent_name
from daybook.short_text import clip, one_line, shorten

MAX_SUBJECT_CHARACTERS = 72
MAX_SUMMARY_CHARACTERS = 20_000
MAX_NAMED = 10
"""Maximum number of waiting changes in the text that the agent gets."""
_NOT_LANDED = (
    "These changes of your earlier runs wait for a person. They are not in your folder; do not "
    "make them again:"
)
_READY = "ready"
"""Name of the file in the run's folder that says that the setup is done."""


class RunWorkspace:
    """Implementation of `execution.workspaces.Workspace` for the run ``granted``."""

    def __init__(self, granted: Granted) -> None:
        self._granted = granted
        self._policy: Policy = granted.policy
        self._end = 0.0

    @staticmethod
    def check(policy: Policy) -> list[str]:
        """Check a job's repository before the job is stored; return notes.

        A folder is checked like a work directory. Raise `InvalidInput`.
        """
        source = Upstream.parse(policy.repo)
        if policy.land == "pull-request":
            Forge.of(source, policy.forge)
        if source.protocol != "file":
            return []
        try:
            notes = locations.check_job_folder(source.address)
        except InvalidInput as error:
            raise InvalidInput("repo", error.problem, error.hint) from None
        if not notes and not any(Path(source.address, each).exists() for each in (".git", "HEAD")):
            hint = "run `git init` there, or use another folder"
            raise InvalidInput("repo", f"{source.address} is no git repository", hint)
        return notes

    @property
    def folder(self) -> str:
        return str(folder_of(self._granted.run_id) / "work")

    @property
    def readable(self) -> tuple[str, ...]:
        return (str(self._store.objects),)  # the worktree borrows them

    @cached_property
    def _store(self) -> Store:
        return Store(Upstream.parse(self._policy.repo), self._policy.repo_secret)

    async def work(self, ask: Ask) -> Outcome:
        self._end = asyncio.get_running_loop().time() + self._policy.timeout.total_seconds()
        async with self._in_time():
            row = await self._opened()
            if row.status != ChangeStatus.WORKING:
                return await self._repeated(row)
            worktree = self._worktree(row)
            await self._set_up(worktree)
        answered, addition = Outcome(Status.SUCCEEDED), row.notice
        for number in range(self._policy.repairs + 1):
            if number:
                with _counted(answered):
                    async with self._in_time():
                        await worktree.restore()
            answered = await self._ask(ask, number, addition, answered)
            row.agent = answered.agent or row.agent
            try:
                change = await self._collect(worktree, row, answered)
            except (GitFailed, AgentTimeout) as error:
                problem = f"the change cannot be recorded: {error}; the work is in {self.folder}"
                return replace(answered, status=Status.FAILED, error=problem)
            verified: ProgramEnd | None = None
            if change.head != change.base and self._policy.verify:
                with _counted(answered):
                    verified = await self._verify(worktree, change, number)
            is_last = number == self._policy.repairs or self._left() <= 0
            if verified is None or not verified.problem or verified.is_missing or is_last:
                return await self._recorded(row, change, answered, verified)
            addition = _complaint(verified, answered.output or "")
        raise AssertionError

    async def _ask(self, ask: Ask, number: int, addition: str, before: Outcome) -> Outcome:
        """Return the answer to a question, with the usage of all questions."""
        spent = before.usage
        try:
            answer = await ask(WorkQuestion(number, addition, self._left(), spent))
        except AgentError as error:
            error.usage = usage.total((spent, error.usage))
            raise
        warnings = tuple(dict.fromkeys((*before.warnings, *answer.warnings)))
        return replace(answer, usage=usage.total((spent, answer.usage)), warnings=warnings)

    def _left(self) -> float:
        """Return the rest of the attempt's time, in seconds; negative if it is over."""
        return self._end - asyncio.get_running_loop().time()

    @asynccontextmanager
    async def _in_time(self, more: float = 0.0) -> AsyncIterator[None]:
        """Raise `AgentTimeout` if the block is not done ``more`` seconds after the attempt's end.

        Raise `AgentTemporary` if git or a file fails, and `AgentFailed` if the repository does not
        accept the credentials.
        """
        limit = asyncio.timeout_at(self._end + more)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise AgentTimeout(self._policy.timeout.total_seconds()) from None
        except RepositoryRefused as error:
            raise AgentFailed(str(error)) from None
        except (GitFailed, OSError) as error:
            raise AgentTemporary(str(error)) from None

    # --- the worktree

    async def _opened(self) -> ChangeRow:
        """Return the row of the run, whose worktree exists. The first attempt makes both.

        Raise `AgentFailed` if the worktree is on another machine.
        """
        run_id = self._granted.run_id
        async with reading() as session:
            row = await session.get(ChangeRow, run_id)
        is_made = await asyncio.to_thread(folder_of(run_id).exists)
        if row is not None:
            if not is_made:
                raise AgentFailed(f"repo: the run's worktree is not here, but on {row.host}")
            if row.status == ChangeStatus.WORKING:
                await asyncio.to_thread(self._worktree(row).remove_locks)
            return row
        row = await self._new_row()
        # An attempt that was killed before it added the row has asked no agent.
        await asyncio.to_thread(remove_folder, folder_of(run_id))
        await self._worktree(row).create(review.author_of(row), row.start)

        async def add(session: AsyncSession, ledger: Ledger) -> None:
            row.started_at = ledger.now()
            await session.merge(row)

        await held_writes.write(self._granted, add)
        return row

    def _worktree(self, row: ChangeRow) -> Worktree:
        return Worktree(self._store, row.run_id, row.base, row.branch)

    async def _new_row(self) -> ChangeRow:
        granted, policy = self._granted, self._policy
        onto = policy.ref or await self._store.default_branch()
        tip = await self._store.fetch(policy.ref)
        name = slugify(granted.job.row.name)[:40] if granted.job else ""
        last = "pull-request" if policy.one_pull_request else granted.run_id[:12]
        row = ChangeRow(
            run_id=granted.run_id,
            job_id=granted.job.id if granted.job else None,
            session_id=granted.session_id,
            host=socket.gethostname(),
            repo=self._store.source.address,
            onto=onto,
            branch=f"daybook/{name or granted.kind}/{last}",
            land=policy.land,
            secret=policy.repo_secret,
            agent=agent_name(granted.parameters),
            started_at=granted.queued_at,
            base=tip,
            start=tip,
        )
        async with reading() as session:
            asked = await self._asked(session, row)
            before = None if asked else await _last(session, row)
            waiting = [] if asked else await _waiting(session, row)
        if asked is not None:
            self._continue(row, asked)
        elif before is not None and before.status == ChangeStatus.DISCARDED:
            why = f": {before.note}" if before.note else "."
            row.notice = f"A person has discarded the change of your run before this one{why}"
        elif waiting:
            row.notice = "\n".join([_NOT_LANDED, *(f"- {each}" for each in waiting)])
        return row

    async def _asked(self, session: AsyncSession, row: ChangeRow) -> ChangeRow | None:
        """Return the waiting change that a person has asked this run to continue."""
        granted = self._granted
        found = await _first(session, row, col(ChangeRow.continued_by) == granted.occurrence)
        if found is None and granted.trigger == triggers.SESSION.name:
            found = await _last(session, row)
        return found if found is not None and found.status == ChangeStatus.WAITING else None

    def _continue(self, row: ChangeRow, before: ChangeRow) -> None:
        """Let the run begin with the change of an earlier run that a person wants to be changed.

        If the branch has changed the same lines, the run begins with the newest commit.
        """
        row.continues = before.run_id
        if not before.has_conflict:
            row.base, row.start = before.base, before.head
            row.notice = (
                "Your folder has the change that you have made in the run before this one. It has "
                "not landed yet."
            )
            return
        row.notice = (
            f"The change of your run before this one has not landed: {before.problem}. Your folder "
            f"has the newest commit of {row.onto}, without your change. Make it again there; "
            f"`git diff {before.base} {before.head}` shows it."
        )

    async def _set_up(self, worktree: Worktree) -> None:
        ready = worktree.folder / _READY
        command = self._policy.setup
        if not command or ready.exists():
            return
        ended = await self._run(command, worktree)
        step = _step(StepPosition(0, 1, 0, 1), command, {})
        await self._journal.report(step, StepReply(ended.output, ended.problem))
        if ended.problem:
            raise AgentTemporary(f"setup: {ended.in_words()}")
        ready.touch()

    async def _run(self, command: tuple[str, ...], worktree: Worktree) -> ProgramEnd:
        job = self._granted.job.id if self._granted.job else ""
        sandbox = sandboxing.of_run(self._granted)
        return await job_programs.run(command, worktree.work, job, self._left(), sandbox)

    @property
    def _journal(self) -> RunJournal:
        current = journal.current()
        assert current is not None, "a workspace is part of an attempt"
        return current

    # --- the change

    async def _collect(self, worktree: Worktree, row: ChangeRow, answered: Outcome) -> Change:
        """Return what the run has changed. Raise `GitFailed`, and `AgentTimeout`."""
        name = self._granted.job.row.name if self._granted.job else self._granted.kind
        subject = one_line(f"{name}: {answered.output or ''}", MAX_SUBJECT_CHARACTERS)
        message = sanitize(f"{subject}\n\nDaybook-Run: {row.run_id}\n")
        limit = asyncio.timeout_at(self._end + MAX_FINISH_SECONDS)
        try:
            async with limit:
                return await worktree.collect(message, review.author_of(row))
        except TimeoutError:
            if not limit.expired():
                raise
            raise AgentTimeout(self._policy.timeout.total_seconds()) from None

    async def _verify(self, worktree: Worktree, change: Change, number: int) -> ProgramEnd:
        """Return the result of the verification, which the journal records.

        Use the result of an earlier attempt if its output may have been in the next question, or
        if it was about the same commit.
        """
        steps, command = self._journal, self._policy.verify
        ended: ProgramEnd | None = None
        position = StepPosition(0, 1 + QUESTIONS * (number + 1), 0, 1)

        async def find() -> tuple[PlannedStep, StepReply]:
            nonlocal ended
            ended = await self._run(command, worktree)
            value = {"head": change.head, "problem": ended.problem, "output": ended.output}
            reply = StepReply(ended.output, ended.problem, value=value)
            return _step(position, command, {"head": change.head}), reply

        async with self._in_time(MAX_FINISH_SECONDS):
            kept = await steps.keep(position, find)
            was_quoted = kept["problem"] and number < self._policy.repairs
            if ended is None and (was_quoted or kept["head"] == change.head):
                ended = ProgramEnd(kept["problem"], kept["output"])
            if ended is None:
                await steps.report(*await find())
        assert ended is not None
        return ended

    async def _recorded(
        self, row: ChangeRow, change: Change, answered: Outcome, verified: ProgramEnd | None
    ) -> Outcome:
        """Record the change, land it if the job says so, and return the run's outcome."""
        problem = verified.problem if verified else ""
        status, excess = ChangeStatus.UNCHANGED, ""
        if change.head != change.base:
            excess = "" if problem else self._excess(change)
            lands = self._policy.land != "review" and not problem and not excess
            status = ChangeStatus.LANDING if lands else ChangeStatus.WAITING

        async def record(session: AsyncSession, ledger: Ledger) -> None:
            found = await session.get_one(ChangeRow, row.run_id)
            found.status, found.recorded_at = status, ledger.now()
            found.agent = row.agent
            found.head, found.notes = change.head, [*change.notes]
            found.files = [asdict(each) for each in change.files]
            found.changed_files = len(change.files)
            found.insertions, found.deletions = change.insertions, change.deletions
            found.summary = shorten(answered.output or "", MAX_SUMMARY_CHARACTERS)
            found.patch = redact_tokens(redact_remembered(change.patch))
            found.is_verified = None if verified is None else not problem
            found.verification = verified.output if verified else ""
            found.problem = (problem and f"verify: {problem}") or excess
            if status != ChangeStatus.UNCHANGED:
                await review.replace(session, row.continues)
            if status == ChangeStatus.WAITING:
                await messages.enqueue(session, found, ledger.now())

        await held_writes.write(self._granted, record)
        words = [answered.reason, *map(redact_tokens, change.notes)]
        if status == ChangeStatus.UNCHANGED:
            return replace(answered, reason=_joined([*words, "no change"]))
        words.append(messages.size_in_words(len(change.files), change.insertions, change.deletions))
        if problem:
            error = f"verify: {verified.in_words()}" if verified else ""
            return replace(answered, status=Status.FAILED, error=error, reason=_joined(words))
        if status == ChangeStatus.LANDING:
            words.append(await self._landed(row.run_id))
        else:
            words.append(excess or "it waits for a person")
        return replace(answered, reason=_joined(words))

    async def _landed(self, run_id: str) -> str:
        """Land the change; return what has happened. If there is no time, the keeper goes on."""
        limit = asyncio.timeout_at(self._end + MAX_FINISH_SECONDS)
        try:
            async with limit:
                return await review.land_in_words(run_id)
        except TimeoutError:
            if not limit.expired():
                raise
        except StillLocked:
            pass
        return "it is landing"

    async def _repeated(self, row: ChangeRow) -> Outcome:
        """Return the outcome of a run whose earlier attempt has recorded its change.

        The agent is not asked again, because it could make the change twice.
        """
        why = "an earlier attempt has recorded the change, and was ended before its outcome"
        if row.is_verified is False:
            return Outcome(Status.FAILED, error=f"{row.problem}; {why}")
        words = [why]
        if row.status == ChangeStatus.LANDING:
            words.append(await self._landed(row.run_id))
        return Outcome(Status.SUCCEEDED, reason=_joined(words), agent=row.agent)

    def _excess(self, change: Change) -> str:
        """Return why a change that would land waits for a person; "" if it need not wait."""
        policy = self._policy
        if policy.land != "auto":
            return ""
        lines, files = change.insertions + change.deletions, len(change.files)
        for name, most, has in (
            ("max_changed_files", policy.max_changed_files, files),
            ("max_changed_lines", policy.max_changed_lines, lines),
        ):
            if most and has > most:
                return f"it waits for a person: {has:,} is more than {name} {most:,}"
        return ""


async def _waiting(session: AsyncSession, row: ChangeRow) -> list[str]:
    """Return the first lines of the answers about the job's changes that wait, newest first."""
    query = (
        select(ChangeRow.summary)
        .where(
            col(ChangeRow.job_id) == row.job_id,
            col(ChangeRow.repo) == row.repo,
            col(ChangeRow.status) == ChangeStatus.WAITING,
        )
        .order_by(col(ChangeRow.started_at).desc())
        .limit(MAX_NAMED)
    )
    found = (await session.execute(query)).scalars()
    return [one_line(each.strip().partition("\n")[0]) or "(no answer)" for each in found]


async def _last(session: AsyncSession, row: ChangeRow) -> ChangeRow | None:
    """Return the last change of the session in the same repository."""
    if not row.session_id:
        return None
    in_session = col(ChangeRow.session_id) == row.session_id
    return await _first(session, row, in_session, col(ChangeRow.status) != ChangeStatus.WORKING)


async def _first(
    session: AsyncSession, row: ChangeRow, *conditions: ColumnElement[bool]
) -> ChangeRow | None:
    query = (
        select(ChangeRow)
        .where(*conditions, col(ChangeRow.repo) == row.repo, col(ChangeRow.run_id) != row.run_id)
        .order_by(col(ChangeRow.started_at).desc())
        .limit(1)
        .options(defer(ChangeRow.patch))  # type: ignore[arg-type]  # up to 2 MB
    )
    return (await session.execute(query)).scalars().first()


@contextmanager
def _counted(answered: Outcome) -> Iterator[None]:
    """Give an error of the block the usage of the questions so far."""
    try:
        yield
    except DaybookError as error:
        if getattr(error, "usage", None) is None:
            error.usage = answered.usage  # type: ignore[attr-defined]
        raise


def _joined(words: Iterable[str]) -> str:
    return "; ".join(filter(None, words))


def _step(position: StepPosition, command: tuple[str, ...], facts: JsonObject) -> PlannedStep:
    shown = shlex.join(command)
    facts = {"command": [*command], **facts}
    return PlannedStep(position, "command", command[0], facts, shown, repeatable=True)


def _complaint(ended: ProgramEnd, answer: str) -> str:
    """Return the next question after a failed verification."""
    quoted = textwrap.indent(answer.strip() or "(empty)", "    ")
    output = textwrap.indent(ended.output or "(no output)", "    ")
    return (
        f"You have done this already; your folder has your change. Your answer was, indented:\n\n"
        f"{clip(quoted, MAX_QUOTED_CHARACTERS)}\n\nYour change is wrong: {ended.problem}. Its "
        f"output was, indented:\n\n{output}\n\nRepair your change, and answer again."
    )
